"""The unlabelled images: a folder of them, at any depth, or tar shards in the form of webdataset.

Nothing is unpacked: an image of a shard is read at its place in the file.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from bench.decode import decode_image
from bench.errors import BenchError
from bench.manifest import MANIFEST, is_labelled, read_rows

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SMALLEST_PX = 32
LOOKED_AT = 64  # images that are read before the start, to tell what will be done to them


@dataclass(frozen=True, slots=True)
class Tile:
    """Where an image lies.

    Attributes:
        name: its path below the folder; in a shard the shard's path, a slash, the member's name.
        file: the file that holds it, itself or a shard.
        offset, size: its bytes in that file.
        manifest: that of the labelled data set which names it as an image; else empty.
    """

    name: str
    file: str
    offset: int
    size: int
    manifest: str = ""

    def read(self) -> np.ndarray:
        """Decode the image: (H, W, 3) uint8 RGB.

        Raises:
            BenchError: it is damaged, not 8-bit RGB, or has a side under 32 px; names it.
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
                f"{self.name} is {width} x {height} px; both sides must be {SMALLEST_PX} or more."
            )
        return image


def find_tiles(images: Path, only: Sequence[str] = ()) -> list[Tile]:
    """List the images of a folder or of one tar file, sorted by name; no pixels are read.

    Hidden files, and folders that are links, are left out. Of a labelled data set, at any depth,
    only the images are taken that its manifest names: its labels are no tiles.

    Args:
        only: keep only what lies in a folder of one of these names; empty keeps everything.

    Raises:
        BenchError: there are none, a name of `only` fits none, or a shard or the manifest of a
            labelled set cannot be read.
    """
    if images.is_dir():
        found = list(_walk(images, ""))
    elif images.is_file():
        found = list(_of_file(images, images.name))
    else:
        raise BenchError(f"there is no folder {images}. Check --images.")
    if not found:
        raise BenchError(
            f"{images} holds no images: no {', '.join(IMAGE_SUFFIXES)} file at any depth, and no "
            ".tar with such files. Check --images."
        )
    return sorted(_chosen(found, only, images), key=lambda tile: tile.name)


def fingerprint(tiles: Sequence[Tile]) -> str:
    """Hash the list of images, by name and number of bytes: sha256 in hex."""
    digest = hashlib.sha256()
    for tile in tiles:
        digest.update(f"{tile.name}\0{tile.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def sources(tiles: Sequence[Tile]) -> dict[str, int]:
    """Count the images of each folder or shard at the top; "." stands for the top itself."""
    tops = (name if rest else "." for name, _, rest in (t.name.partition("/") for t in tiles))
    return dict(sorted(Counter(tops).items()))


def labelled(tiles: Sequence[Tile]) -> list[str]:
    """Say of which labelled data sets the images alone are taken."""
    named = Counter(tile.manifest for tile in tiles if tile.manifest)
    return [
        f"{Path(manifest).parent} is a labelled data set: the {count} images that its manifest.csv "
        "names are taken, and nothing else in it."
        for manifest, count in sorted(named.items())
    ]


def survey(tiles: Sequence[Tile], crop_px: int) -> list[str]:
    """Read some images, evenly spread, and say what will be done to those of unusual size.

    Raises:
        BenchError: not one of them can be used.
    """
    spread = np.linspace(0, len(tiles) - 1, min(LOOKED_AT, len(tiles))).round().astype(int)
    sides: list[int] = []
    refusals: list[str] = []
    for index in spread:
        try:
            sides.append(min(tiles[index].read().shape[:2]))
        except BenchError as error:
            refusals.append(str(error))
    if not sides:
        raise BenchError(f"none of {len(refusals)} images can be used. The first: {refusals[0]}")
    return list(_told(np.array(sides), crop_px))


def _told(sides: np.ndarray, crop_px: int) -> Iterator[str]:
    """Tell about (n,) shorter sides in pixels."""
    seen = f"of {len(sides)} images looked at"
    if smaller := int((sides < crop_px).sum()):
        yield (
            f"{seen}, {smaller} have a side under {crop_px} px (the smallest {sides.min()} px): "
            f"their largest square is enlarged to {crop_px} px."
        )
    if equal := int((sides == crop_px).sum()):
        yield (
            f"{seen}, {equal} have a shorter side of just {crop_px} px: a crop of them is their "
            "largest square, so mixed resizing changes nothing there."
        )


def _walk(folder: Path, prefix: str) -> Iterator[Tile]:
    """Yield the tiles of a folder; `prefix` is its path below the top, with a slash at its end."""
    if is_labelled(folder):
        yield from _named(folder, prefix)
        return
    try:
        entries = [each for each in os.scandir(folder) if not each.name.startswith(".")]
    except OSError as error:
        raise BenchError(f"cannot read {folder}: {error.strerror or error}.") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield from _of_file(Path(entry.path), prefix + entry.name)


def _named(root: Path, prefix: str) -> Iterator[Tile]:
    """Yield the images of a labelled data set."""
    for sample in read_rows(root):
        path = root / sample.image
        yield Tile(prefix + sample.image, str(path), 0, path.stat().st_size, str(root / MANIFEST))


def _of_file(path: Path, name: str) -> Iterator[Tile]:
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES):
        yield Tile(name, str(path), 0, path.stat().st_size)
    elif lower.endswith(".tar"):
        yield from _members(path, name)
    elif lower.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")):
        raise BenchError(f"{path} is compressed, so its images cannot be read singly. Unpack it.")


def _members(shard: Path, name: str) -> Iterator[Tile]:
    try:
        with tarfile.open(shard, "r:") as bundle:
            for member in bundle:
                plain = member.isreg() and not member.issparse()
                if plain and member.name.lower().endswith(IMAGE_SUFFIXES):
                    yield Tile(f"{name}/{member.name}", str(shard), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise BenchError(f"{shard} is damaged or no tar file: {error}. Fetch it again.") from error


def _chosen(found: list[Tile], only: Sequence[str], images: Path) -> list[Tile]:
    if not only:
        return found
    folders = {part for tile in found for part in PurePosixPath(tile.name).parts[:-1]}
    if missing := sorted(set(only) - folders):
        raise BenchError(
            f"--only {missing[0]}: no folder below {images} that holds images has this name. "
            f"There are: {', '.join(sorted(folders)[:20]) or 'none'}."
        )
    return [tile for tile in found if set(PurePosixPath(tile.name).parts[:-1]) & set(only)]
