"""Disk cache of the feature maps of frozen extractors: list, check and clear.

`features/<key>/` contains the maps of one extractor (weights, options and code) in one view and
precision, described by `about.json`. `<fingerprint>.safetensors` contains the maps of one image in
bfloat16; it is memory-mapped when read, and its header names extractor and image. `sets/<data
set>.json` lists the images that runs on a data set have requested. With one file per image, an
interrupted extraction can resume, runs on parts or changed copies of a data set share files, and
several processes can fill a folder at the same time. Listing, checking and clearing do not need
torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.api import Progress
from bench.errors import BenchError, Damaged
from bench.store.cache_dir import is_writable
from bench.store.files import changing, sealed, unsealed, write_bytes

SUFFIX = ".safetensors"
DIGEST = "sha256"  # metadata key of a file; the value is the line returned by `digest`
LOCK = "in-use.lock"
UNNAMED = "?"  # pseudo data set of images that are in no list


@dataclass(frozen=True)
class Entry:
    """The cached maps of a data set for one extractor and view.

    Attributes:
        wanted: number of images that runs have requested.
        kept: number of requested images with cached maps.
        size: total size of the files in bytes.
    """

    folder: Path
    about: Mapping[str, object]
    dataset: str
    wanted: int
    kept: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether the maps of all requested images are cached."""
        return self.kept == self.wanted


def describe(
    folder: Path, about: Mapping[str, object], dataset: str, images: Iterable[str]
) -> None:
    """Record the extractor of a folder, and the requested images (fingerprints) of a data set."""
    if manifest(folder) != about:
        _write(folder / "about.json", about)
    path = folder / "sets" / f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', dataset)}.json"
    listed = _list(path)
    wanted = sorted({*listed, *images})
    if wanted != listed:
        _write(path, {"dataset": dataset, "images": wanted})


def manifest(folder: Path) -> dict[str, object]:
    """Return the description of a folder's extractor; empty if unknown."""
    return _read(folder / "about.json")


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Hold a shared lock on a folder; the lock is released when the process ends.

    None and folders that are not writable are not locked.
    """
    lock = None
    if folder is not None and is_writable(folder):
        with changing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder, exclusive=False)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def entries(root: Path) -> list[Entry]:
    """List the cache entries, sorted by backbone and data set."""
    listed = [entry for folder in sorted(root.glob("*/")) for entry in _entries(folder)]
    return sorted(listed, key=lambda e: (str(e.about.get("backbone")), e.dataset, e.folder))


def damaged(root: Path, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Read every file, and yield the damaged ones with the reason."""
    for path in sorted([*root.glob("*/about.json"), *root.glob("*/sets/*.json")]):
        try:
            unsealed(path.read_bytes(), _place(path))
        except (OSError, Damaged) as error:
            yield path, str(error)
    files = sorted(root.glob(f"*/*{SUFFIX}"))
    for done, path in enumerate(files):
        progress("features", done, len(files))
        if reason := _damage(path):
            yield path, reason
    progress("features", len(files), len(files))


def clear(chosen: Sequence[Entry]) -> int:
    """Remove entries, except for images that another data set needs. Return the freed bytes.

    Raises:
        BenchError: a run uses one of the entries, or one is not writable; nothing is removed.
    """
    for folder in sorted({entry.folder for entry in chosen}):
        if not (is_writable(folder) and is_writable(folder.parent)):
            raise BenchError(
                f"{folder} is not writable; nothing was removed. Ask its owner to clear it, or set "
                "BENCH_CACHE to another folder."
            )
    locks = [_exclusive(folder) for folder in {entry.folder for entry in chosen}]
    try:
        return sum(_clear_entry(entry) for entry in chosen)
    finally:
        for lock in filter(None, locks):
            lock.close()


def _clear_entry(entry: Entry) -> int:
    lists = {path: _list(path) for path in (entry.folder / "sets").glob("*.json")}
    removed = [path for path in lists if _name(path) == entry.dataset]
    others = {image for path, images in lists.items() if path not in removed for image in images}
    freed = 0
    for path in entry.folder.glob(f"*{SUFFIX}"):
        named = any(path.stem in lists[listing] for listing in removed)
        if path.stem not in others and (named or entry.dataset == UNNAMED):
            freed += path.stat().st_size
            path.unlink()
    for path in removed:
        path.unlink()
    if not any(entry.folder.glob(f"*{SUFFIX}")):
        shutil.rmtree(entry.folder)
    return freed


def _entries(folder: Path) -> Iterator[Entry]:
    about = manifest(folder)
    files = {path.stem: path.stat().st_size for path in folder.glob(f"*{SUFFIX}")}
    named: set[str] = set()
    for path in sorted((folder / "sets").glob("*.json")):
        images = _list(path)
        named.update(images)
        sizes = [files[image] for image in images if image in files]
        yield Entry(folder, about, _name(path), len(images), len(sizes), sum(sizes))
    rest = [size for image, size in files.items() if image not in named]
    if rest:
        yield Entry(folder, about, UNNAMED, len(rest), len(rest), sum(rest))


def _damage(path: Path) -> str:
    """Return what is wrong with a file of maps, or ""."""
    try:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        line = header.pop("__metadata__", {}).get(DIGEST, "")
        spans = [header[str(level)]["data_offsets"] for level in range(len(header))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        return f"cannot be read: {error}"
    payload = memoryview(content)[8 + length :]
    if max((end for _, end in spans), default=0) != len(payload):
        return f"contains {len(payload)} bytes of maps, which differs from its header"
    owner = line.partition("  ")[2]
    if not owner:
        return "does not name its extractor and image: it was written by an older version"
    if not is_of(path, line):
        return f"contains the maps of {owner}"
    if digest(path, (payload[begin:end] for begin, end in spans)) != line:
        return "the checksum of its maps does not match"
    return ""


def digest(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Return a line with the sha256 of a file's maps and their owner, `<key>/<fingerprint>`.

    The hash covers the owner (extractor and image), a zero byte, and the bytes of the maps.
    """
    owner = _owner(path)
    total = hashlib.sha256(owner.encode() + b"\0")
    for part in parts:
        total.update(part)
    return f"{total.hexdigest()}  {owner}"


def is_of(path: Path, line: str) -> bool:
    """Return whether a line of `digest` has the owner that belongs to a file."""
    return line.partition("  ")[2] == _owner(path)


def _owner(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _exclusive(folder: Path) -> BinaryIO | None:
    lock = _locked(folder, exclusive=True)
    if lock is None and _has_locks():
        raise BenchError(f"a run is using {folder}; nothing was removed. Wait until it has ended.")
    return lock


def _locked(folder: Path, *, exclusive: bool) -> BinaryIO | None:
    if not _has_locks():
        return None
    import fcntl

    path = folder / LOCK
    mode = "ab" if os.access(path, os.W_OK) or not path.exists() else "rb"  # owned by another user
    file = path.open(mode)
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401
    except ImportError:  # Windows does not allow removing open files
        return False
    return True


def _name(path: Path) -> str:
    return str(_read(path).get("dataset", path.stem))


def _list(path: Path) -> list[str]:
    images = _read(path).get("images", [])
    return [str(image) for image in images] if isinstance(images, list) else []


def _read(path: Path) -> dict[str, object]:
    try:
        return unsealed(path.read_bytes(), _place(path))
    except (OSError, Damaged):
        return {}


def _write(path: Path, body: Mapping[str, object]) -> None:
    write_bytes(path, sealed(body, _place(path)))


def _place(path: Path) -> str:
    """Return the owner of a JSON file of the cache: its folder and file name."""
    folder = path.parent.parent if path.parent.name == "sets" else path.parent
    return f"{folder.name}/{path.name}"
