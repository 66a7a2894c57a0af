"""The kept maps of frozen extractors on disk: what is there, whether it is whole, how it goes.

`features/<key>/` holds the maps of one extractor (its weights, options and code) in one view and
precision. `about.json` tells which; `<fingerprint>.safetensors` are the maps of one image, in
bfloat16, mapped into memory when read, and its header names extractor and image; `sets/<data
set>.json` lists the images that runs on a data set have wanted. An image is a file of its own so
that a stopped extraction goes on where it was, runs on parts of a data set or on changed copies
share what they have in common, and several processes fill a folder at once. No torch is needed to
list, check or clear.
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
from bench.cache_place import is_writable
from bench.errors import BenchError, Damaged
from bench.sealed import sealed, unsealed
from bench.store import changing, write_bytes

SUFFIX = ".safetensors"
DIGEST = "sha256"  # of the metadata of a file: a line as `sha256sum` writes it, see `digest`
LOCK = "in-use.lock"
UNNAMED = "?"  # images that no data set's list names


@dataclass(frozen=True)
class Entry:
    """The kept maps of a data set under one extractor and view.

    Attributes:
        wanted: images that runs have wanted.
        kept: of those, the images whose maps are here.
        size: bytes of the files here.
    """

    folder: Path
    about: Mapping[str, object]
    dataset: str
    wanted: int
    kept: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether nothing that was wanted is missing."""
        return self.kept == self.wanted


def describe(
    folder: Path, about: Mapping[str, object], dataset: str, images: Iterable[str]
) -> None:
    """Note whose maps a folder holds, and which images (by fingerprint) a data set wants there."""
    if manifest(folder) != about:
        _write(folder / "about.json", about)
    path = folder / "sets" / f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', dataset)}.json"
    known = _list(path)
    wanted = sorted({*known, *images})
    if wanted != known:
        _write(path, {"dataset": dataset, "images": wanted})


def manifest(folder: Path) -> dict[str, object]:
    """Read whose maps a folder holds; empty where that is not known."""
    return _read(folder / "about.json")


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Mark a folder as used; a process that dies lets go of it.

    None marks nothing, nor does one that this user may not write to.
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
    """List what is kept under the folder of features, by backbone and data set."""
    found = [each for folder in sorted(root.glob("*/")) for each in _entries(folder)]
    return sorted(found, key=lambda own: (str(own.about.get("backbone")), own.dataset, own.folder))


def damaged(root: Path, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Read every file again, and give those that are not what was written, each with the reason."""
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
    """Remove entries; images that another data set wants stay. Give the bytes that are free now.

    Raises:
        BenchError: a run uses one of them, or this user may not remove one; then none is removed.
    """
    for folder in sorted({each.folder for each in chosen}):
        if not (is_writable(folder) and is_writable(folder.parent)):
            raise BenchError(
                f"you may not remove anything from {folder}: its owner can. Nothing was removed; "
                "BENCH_CACHE names a cache of your own."
            )
    locks = [_exclusive(folder) for folder in {each.folder for each in chosen}]
    try:
        return sum(_cleared(each) for each in chosen)
    finally:
        for lock in filter(None, locks):
            lock.close()


def _cleared(entry: Entry) -> int:
    lists = {path: _list(path) for path in (entry.folder / "sets").glob("*.json")}
    own = [path for path in lists if _name(path) == entry.dataset]
    others = {image for path, images in lists.items() if path not in own for image in images}
    freed = 0
    for path in entry.folder.glob(f"*{SUFFIX}"):
        named = any(path.stem in lists[each] for each in own)
        if path.stem not in others and (named or entry.dataset == UNNAMED):
            freed += path.stat().st_size
            path.unlink()
    for path in own:
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
        here = [files[image] for image in images if image in files]
        yield Entry(folder, about, _name(path), len(images), len(here), sum(here))
    rest = [size for image, size in files.items() if image not in named]
    if rest:
        yield Entry(folder, about, UNNAMED, len(rest), len(rest), sum(rest))


def _damage(path: Path) -> str:
    """Say what is wrong with a file of maps; "" where nothing is."""
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
        return f"holds {len(payload)} bytes of maps where its header promises another number"
    owner = line.partition("  ")[2]
    if not owner:
        return "does not say whose maps it holds: it was written by an older version"
    if not is_of(path, line):
        return f"holds the maps of {owner}"
    if digest(path, (payload[begin:end] for begin, end in spans)) != line:
        return "its maps do not have the checksum that they were written with"
    return ""


def digest(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Say whose maps are written to a file, and their sha256, in a line.

    The hash is that of `<key>/<fingerprint>` (extractor and image), a zero byte, and the bytes of
    the maps one after another.
    """
    owner = _owner(path)
    total = hashlib.sha256(owner.encode() + b"\0")
    for part in parts:
        total.update(part)
    return f"{total.hexdigest()}  {owner}"


def is_of(path: Path, line: str) -> bool:
    """Tell whether a line of `digest` is about the maps that belong into a file."""
    return line.partition("  ")[2] == _owner(path)


def _owner(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _exclusive(folder: Path) -> BinaryIO | None:
    lock = _locked(folder, exclusive=True)
    if lock is None and _has_locks():
        raise BenchError(f"a run is using {folder}: wait until it has ended. Nothing was removed.")
    return lock


def _locked(folder: Path, *, exclusive: bool) -> BinaryIO | None:
    if not _has_locks():
        return None
    import fcntl

    path = folder / LOCK
    mode = "ab" if os.access(path, os.W_OK) or not path.exists() else "rb"  # of another user
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
    except ImportError:  # Windows, which refuses by itself to remove open files
        return False
    return True


def _name(path: Path) -> str:
    return str(_read(path).get("dataset", path.stem))


def _list(path: Path) -> list[str]:
    images = _read(path).get("images", [])
    return [str(each) for each in images] if isinstance(images, list) else []


def _read(path: Path) -> dict[str, object]:
    try:
        return unsealed(path.read_bytes(), _place(path))
    except (OSError, Damaged):
        return {}


def _write(path: Path, body: Mapping[str, object]) -> None:
    write_bytes(path, sealed(body, _place(path)))


def _place(path: Path) -> str:
    """Name what a file about kept maps belongs to: its folder, and the data set where it is one."""
    folder = path.parent.parent if path.parent.name == "sets" else path.parent
    return f"{folder.name}/{path.name}"
