"""Read and write files: atomic writes, zip archives, and errors that state how to fix them."""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.errors import BenchError
from bench.store.locks import TEMPORARY

MAX_NAME_BYTES = 200  # ids become file names, which are limited to 255 bytes
MAX_ZIP_BYTES = 1 << 30  # unpacked; the files of an archive are in memory during the check
SPECIAL = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)
UNREADABLE = (  # raised by zipfile and its decoders for damaged and encrypted archives
    *(zipfile.BadZipFile, RuntimeError, EOFError, OSError),
    *(zlib.error, lzma.LZMAError, UnicodeDecodeError),
)


@dataclass(frozen=True)
class Problem:
    """A problem with a stored file or folder, and how to fix it."""

    path: Path
    problem: str
    fix: str


def is_file_name(name: str) -> bool:
    """Return whether an id is a valid file name on every system."""
    printable = bool(name.strip()) and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    return printable and not name.startswith(".") and len(name.encode()) <= MAX_NAME_BYTES


def write_bytes(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file atomically: readers see the old or the new content, also after a crash.

    Args:
        path: missing parent folders are created.
        replace: False leaves an existing file unchanged.

    Returns:
        Whether the file was written; False only if `replace=False` and the file exists.

    Raises:
        BenchError: the folder is not writable, or the disk is full.
    """
    return write_stream(path, lambda file: file.write(content), replace=replace)


def write_stream(path: Path, write: Callable[[BinaryIO], object], *, replace: bool = True) -> bool:
    """Write a file like `write_bytes`; `write` receives the open file and writes the content."""
    with write_errors(path):
        created = [folder.parent for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not replace and path.exists():
            return False
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
            for folder in (path.parent, *created):
                sync_folder(folder)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system supports it."""
    with suppress(OSError):  # Windows and some network file systems refuse to open or sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Convert an OSError to a BenchError that says how to fix it."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose a writable folder with free space (`--results DIR`, `--out DIR`; for the cache "
            "set BENCH_CACHE, or use `--no-cache`)."
        ) from error


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Raises:
        BenchError: the file exists but is unreadable, or is a FIFO, a socket, a device or a folder.
    """
    try:
        if kind := special_kind(path):
            raise BenchError(f"{path} is {kind}, not a file. Delete it, and repeat the command.")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read: {error.strerror or error}. It was not changed. Check its "
            "permissions and the disk, and repeat the command."
        ) from error


def special_kind(path: Path) -> str:
    """Return what a path is if it is no file, such as "a FIFO", which a reader would wait for.

    Raises:
        OSError: the path does not exist.
    """
    mode = path.stat().st_mode
    return next((name for is_kind, name in SPECIAL if is_kind(mode)), "")


def sha256_of(content: bytes) -> str:
    """Return the sha256 of bytes in hex digits."""
    return hashlib.sha256(content).hexdigest()


def read_zip(path: Path, is_expected: Callable[[str], bool]) -> dict[str, bytes]:
    """Return the files of a zip archive by name; folders are ignored.

    Args:
        is_expected: whether the archive may contain a file of this name.

    Raises:
        BenchError: the archive is damaged or encrypted, unpacks to more than MAX_ZIP_BYTES, or
            contains a link, a device, a duplicate name or an unexpected name. No file is read if
            an entry is refused.
    """
    try:
        if kind := special_kind(path):
            raise BenchError(f"{path} is {kind}, not a bundle: choose a zip file or a folder.")
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if problem := _zip_problem(entries, is_expected):
                raise BenchError(f"{path} is refused, nothing was written: {problem}.")
            return {entry.filename: archive.read(entry) for entry in entries}
    except UNREADABLE as error:
        raise BenchError(f"{path} is not a readable zip file: {error}.") from error


def _zip_problem(entries: list[zipfile.ZipInfo], is_expected: Callable[[str], bool]) -> str:
    # ZipInfo.filename is cut at NUL and has converted separators; check the raw name.
    names = [entry.orig_filename for entry in entries]
    for name, entry in zip(names, entries, strict=True):
        if not is_expected(name):
            return f"unexpected file {name!r}"
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            return f"{name!r} is a link or a device"
    if len(set(names)) < len(names):
        return "it contains duplicate names"
    size = sum(entry.file_size for entry in entries)
    if size > MAX_ZIP_BYTES:
        return f"it unpacks to {size} bytes, the limit is {MAX_ZIP_BYTES}"
    return ""
