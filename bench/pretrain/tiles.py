"""Unlabelled images in a folder, at any depth, or in tar shards as of webdataset.

Images of a shard are read at their offset in the tar file, without unpacking.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from bench.api.report import several
from bench.data.decode import decode_image
from bench.data.manifest import MANIFEST, is_labelled, read_rows
from bench.data.walk import HIDDEN_FILE, OTHER, is_hidden, walk
from bench.errors import BenchError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
SMALLEST_PX = 32
SURVEYED = 64  # images that are read before training starts, to report their sizes


@dataclass(frozen=True, slots=True)
class Tile:
    """The location of an image.

    Attributes:
        name: path below the folder; in a shard, the shard's path, a slash and the member's name.
        file: the image file or the shard.
        offset, size: position of its bytes in the file.
        manifest: manifest of the labelled data set that contains the image; empty if none.
    """

    name: str
    file: str
    offset: int
    size: int
    manifest: str = ""

    def read(self) -> np.ndarray:
        """Decode the image: (H, W, 3) uint8 RGB.

        Raises:
            BenchError: the image is damaged, not 8-bit RGB, or has a side under 32 px.
        """
        try:
            with Path(self.file).open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise BenchError(f"cannot read {self.name}: {error.strerror or error}.") from error
        image = decode_image(content, Path(self.name))
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_PX:
            raise BenchError(
                f"{self.name} is {width} x {height} px; both sides must be at least {SMALLEST_PX}."
            )
        return image


@dataclass(frozen=True)
class TileList:
    """The images of a folder or a shard, sorted by name.

    Attributes:
        notes: the number of images, and what was left out.
    """

    tiles: list[Tile]
    notes: list[str]


def find_tiles(images: Path, only: Sequence[str] = ()) -> TileList:
    """List the images of a folder or of one tar file, without decoding them.

    Linked folders are followed; hidden files are left out (see `bench.data.walk`). In a labelled
    data set, at any depth, only the images that its manifest lists are used, and not its labels.

    Args:
        only: use images below folders of these names only; empty for all.

    Raises:
        BenchError: there are no images, a name of `only` matches no folder, or a shard or a
            manifest cannot be read.
    """
    left_out: Counter[str] = Counter()
    if images.is_dir():
        tiles = list(_tiles_of_folder(images, left_out))
    elif images.is_file():
        tiles = list(_tiles_of_file(images, images.name, left_out))
    else:
        raise BenchError(f"there is no folder {images}. Check --images.")
    omitted = ", ".join(several(count, kind) for kind, count in sorted(left_out.items()))
    if not tiles:
        raise BenchError(
            f"{images} contains no images: no {', '.join(IMAGE_SUFFIXES)} file at any depth, and "
            f"no .tar with such files{f' (left out: {omitted})' if omitted else ''}. Check "
            "--images."
        )
    selected = _select(tiles, only, images)
    counted = f"{len(selected)} images in {images}"
    if only:
        counted += f", of {len(tiles)}, are below the folders of --only"
    notes = [counted, *([f"left out: {omitted}"] if omitted else []), *_labelled(selected)]
    return TileList(sorted(selected, key=lambda tile: tile.name), notes)


def fingerprint(tiles: Sequence[Tile]) -> str:
    """Return the sha256 of the names and sizes of the images, in hex."""
    digest = hashlib.sha256()
    for tile in tiles:
        digest.update(f"{tile.name}\0{tile.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def sources(tiles: Sequence[Tile]) -> dict[str, int]:
    """Count the images of each top-level folder or shard; "." is the top level itself."""
    parts = (tile.name.partition("/") for tile in tiles)
    counts = Counter(name if rest else "." for name, _, rest in parts)
    return dict(sorted(counts.items()))


def _labelled(tiles: Sequence[Tile]) -> list[str]:
    """Return a message for each labelled data set, of which only images are used."""
    counts = Counter(tile.manifest for tile in tiles if tile.manifest)
    return [
        f"{Path(manifest).parent} is a labelled data set: only the {count} images that its "
        "manifest.csv lists are used."
        for manifest, count in sorted(counts.items())
    ]


def survey(tiles: Sequence[Tile], crop_px: int) -> list[str]:
    """Read some images, evenly spaced in the list, and return messages about small ones.

    Raises:
        BenchError: none of them can be used.
    """
    indices = np.linspace(0, len(tiles) - 1, min(SURVEYED, len(tiles))).round().astype(int)
    sides: list[int] = []
    errors: list[str] = []
    for index in indices:
        try:
            sides.append(min(tiles[index].read().shape[:2]))
        except BenchError as error:
            errors.append(str(error))
    if not sides:
        raise BenchError(f"none of {len(errors)} images can be used. The first: {errors[0]}")
    notes = []
    smaller = sum(side < crop_px for side in sides)
    if smaller:
        notes.append(
            f"of {len(sides)} images examined, {smaller} have a side under {crop_px} px (the "
            f"smallest {min(sides)} px): their largest square is enlarged to {crop_px} px."
        )
    equal = sides.count(crop_px)
    if equal:
        notes.append(
            f"of {len(sides)} images examined, {equal} have a shorter side of exactly {crop_px} "
            "px: every crop is their largest square, so mixed resizing does not change them."
        )
    return notes


def _tiles_of_folder(images: Path, left_out: Counter[str]) -> Iterator[Tile]:
    endings = (*IMAGE_SUFFIXES, ".tar", *COMPRESSED)
    for prefix, folder, files in walk(images, left_out, endings=endings, is_leaf=is_labelled):
        if files is None:
            manifest = str(folder / MANIFEST)
            for row in read_rows(folder):
                path = folder / row.image
                yield Tile(prefix + row.image, str(path), 0, path.stat().st_size, manifest)
        for name in files or ():
            yield from _tiles_of_file(folder / name, prefix + name, left_out)


def _tiles_of_file(path: Path, name: str, left_out: Counter[str]) -> Iterator[Tile]:
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES):
        yield Tile(name, str(path), 0, path.stat().st_size)
    elif lower.endswith(".tar"):
        yield from _members(path, name, left_out)
    elif lower.endswith(COMPRESSED):
        raise BenchError(f"{path} is compressed, so its images have no offset. Decompress it.")


def _members(shard: Path, name: str, left_out: Counter[str]) -> Iterator[Tile]:
    try:
        with tarfile.open(shard, "r:") as bundle:
            for member in bundle:
                if member.isdir():
                    continue
                if is_hidden(member.name):
                    left_out[HIDDEN_FILE] += 1
                elif not member.name.lower().endswith(IMAGE_SUFFIXES):
                    left_out[OTHER] += 1
                elif not member.isreg() or member.issparse():
                    left_out["tar member that is not a file"] += 1
                else:
                    yield Tile(f"{name}/{member.name}", str(shard), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise BenchError(f"{shard} is not a valid tar file: {error}. Download it again.") from error


def _select(tiles: list[Tile], only: Sequence[str], images: Path) -> list[Tile]:
    if not only:
        return tiles
    folders = {tile: set(PurePosixPath(tile.name).parts[:-1]) for tile in tiles}
    names = set().union(*folders.values())
    missing = sorted(set(only) - names)
    if missing:
        raise BenchError(
            f"--only {missing[0]}: no folder with images below {images} has this name. "
            f"There are: {', '.join(sorted(names)[:20]) or 'none'}."
        )
    return [tile for tile in tiles if folders[tile] & set(only)]
