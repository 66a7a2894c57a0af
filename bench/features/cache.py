"""Disk cache of the feature maps of frozen extractors: list, check and clear.

`features/<key>/` contains the maps of one extractor (weights, options and code) in one view and
precision, described by `about.json`. `<fingerprint>.safetensors` contains the maps of one image in
bfloat16; it is memory-mapped when read, and its header names extractor and image. `sets/<data
set>.json` lists the images that runs on a data set have requested. With one file per image, an
interrupted extraction can resume, runs on parts or changed copies of a data set share files, and
several processes can fill a folder at the same time. Nothing here loads torch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.api import Progress
from bench.api.record import canonical
from bench.errors import BenchError, Damaged
from bench.store.cache_dir import is_writable
from bench.store.files import Problem, read_bytes, special_kind, write_bytes

SUFFIX = ".safetensors"
OWNER = "of"  # metadata key of a cached file; see `owner`
UNNAMED = "?"  # pseudo data set of images that are in no list


@dataclass(frozen=True)
class Entry:
    """The cached maps of a data set for one extractor and view.

    Attributes:
        requested: number of images that runs have requested.
        cached: number of requested images with cached maps.
        size: total size of the files in bytes.
    """

    folder: Path
    about: Mapping[str, object]
    dataset: str
    requested: int
    cached: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether the maps of all requested images are cached."""
        return self.cached == self.requested


def describe(
    folder: Path, about: Mapping[str, object], dataset: str, images: Iterable[str]
) -> None:
    """Record the extractor of a folder, and the requested images (fingerprints) of a data set."""
    if manifest(folder) != about:
        write_bytes(folder / "about.json", canonical(about))
    path = folder / "sets" / f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', dataset)}.json"
    listed = _images(path)
    requested = sorted({*listed, *images})
    if requested != listed:
        write_bytes(path, canonical({"dataset": dataset, "images": requested}))


def manifest(folder: Path) -> dict[str, object]:
    """Return the description of a folder's extractor; empty if unknown."""
    return _read(folder / "about.json")


def owner(path: Path) -> str:
    """Return the extractor and image whose maps belong into a file, `<key>/<fingerprint>`."""
    return f"{path.parent.name}/{path.stem}"


def read_metadata(path: Path, expected: str) -> dict[str, str]:
    """Return the metadata in the header of a cached file.

    Raises:
        Damaged: the file is truncated or no safetensors file, or its owner is not `expected`.
    """
    try:
        if kind := special_kind(path):
            raise Damaged(f"is {kind}, not a file")
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise Damaged(f"cannot be read: {error}") from error
    if metadata.get(OWNER) != expected:
        raise Damaged(f"belongs to {metadata.get(OWNER, 'an earlier version')}, not to {expected}")
    return metadata


def check(root: Path, progress: Progress) -> Iterator[Problem]:
    """Check the size and the owner of every file of maps."""
    files = sorted(root.glob(f"*/*{SUFFIX}"))
    for done, path in enumerate(files):
        progress("features", done, len(files))
        try:
            read_metadata(path, owner(path))
        except Damaged as error:
            yield Problem(
                path, str(error), "delete it, or run `bench cache clear`; it is recomputed"
            )
    progress("features", len(files), len(files))


def entries(root: Path) -> list[Entry]:
    """List the cache entries, sorted by backbone and data set."""
    listed = [entry for folder in sorted(root.glob("*/")) for entry in _entries(folder)]
    return sorted(listed, key=lambda e: (str(e.about.get("backbone")), e.dataset, e.folder))


def _entries(folder: Path) -> Iterator[Entry]:
    about = manifest(folder)
    files = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    sizes = {path.stem: path.stat().st_size for path in files}
    named: set[str] = set()
    for path in sorted((folder / "sets").glob("*.json")):
        images = _images(path)
        named.update(images)
        cached = [sizes[image] for image in images if image in sizes]
        yield Entry(folder, about, _dataset(path), len(images), len(cached), sum(cached))
    rest = [size for image, size in sizes.items() if image not in named]
    if rest:
        yield Entry(folder, about, UNNAMED, len(rest), len(rest), sum(rest))


def clear(chosen: Sequence[Entry]) -> int:
    """Remove entries, except for images that another data set needs. Return the freed bytes.

    A run that is using an entry computes the maps that it still needs again.

    Raises:
        BenchError: one of the entries is not writable; nothing is removed.
    """
    for folder in sorted({entry.folder for entry in chosen}):
        if not (is_writable(folder) and is_writable(folder.parent)):
            raise BenchError(
                f"{folder} is not writable; nothing was removed. Ask its owner to clear it, or set "
                "BENCH_CACHE to another folder."
            )
    return sum(_clear_entry(entry) for entry in chosen)


def _clear_entry(entry: Entry) -> int:
    lists = {path: _images(path) for path in (entry.folder / "sets").glob("*.json")}
    removed = [path for path in lists if _dataset(path) == entry.dataset]
    others = {image for path, images in lists.items() if path not in removed for image in images}
    freed = 0
    for path in entry.folder.glob(f"*{SUFFIX}"):
        named = any(path.stem in lists[listing] for listing in removed)
        if path.stem not in others and (named or entry.dataset == UNNAMED):
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    for path in removed:
        path.unlink(missing_ok=True)
    if not any(entry.folder.glob(f"*{SUFFIX}")):
        shutil.rmtree(entry.folder, ignore_errors=True)
    return freed


def _dataset(path: Path) -> str:
    return str(_read(path).get("dataset", path.stem))


def _images(path: Path) -> list[str]:
    images = _read(path).get("images", [])
    return [str(image) for image in images] if isinstance(images, list) else []


def _read(path: Path) -> dict[str, object]:
    try:
        body = json.loads(read_bytes(path) or b"")
    except (BenchError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
