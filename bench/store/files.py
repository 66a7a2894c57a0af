"""JSON files with an embedded hash and owner, to detect damaged and swapped files.

Files of older versions have no hash and are accepted unchecked.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bench.api.record import (
    canonical,
)
from bench.errors import BenchError, Damaged
from bench.store.locks import WRITING, lock

OF, SHA256 = "of", "sha256"


def sealed(body: Mapping[str, object], of: str) -> bytes:
    """Serialise a JSON object with its owner `of` and the sha256 of both."""
    owned = {**body, OF: of}
    return canonical({**owned, SHA256: _sha256(owned)}) + b"\n"


def unsealed(content: bytes, of: str) -> dict[str, object]:
    """Return the JSON object written by `sealed` or by an older version.

    Raises:
        Damaged: the content was changed, has another owner, or is not a JSON object.
    """
    try:
        body = json.loads(content)
        if not isinstance(body, dict):
            raise Damaged("it does not contain a JSON object")
        stated = body.pop(SHA256, None)
        has_hash = OF in body or stated is not None
        is_valid = not has_hash or stated == _sha256(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"it is not valid JSON ({error})") from error
    if not is_valid:
        raise Damaged("its content does not match its hash")
    if (owner := body.pop(OF, of)) != of:
        raise Damaged(f"it belongs to {owner}")
    return body


def is_sealed(content: bytes) -> bool:
    """Return whether a file was written with a hash."""
    return f'"{SHA256}"'.encode() in content


def _sha256(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()


MAX_NAME_BYTES = 200  # ids become file names, which are limited to 255 bytes


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
    with changing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=WRITING)
        lock(handle)  # so that other processes do not treat it as an orphan
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            if replace:
                Path(temporary).replace(path)
            written = replace or _link_new(Path(temporary), path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        _keep_name(path.parent)
        return written


def _keep_name(folder: Path) -> None:
    """Flush a folder's entries to disk, on systems that support it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # not supported by some network file systems
            os.fsync(handle)
    finally:
        os.close(handle)


def _link_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        temporary.replace(path)
    return True


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Convert an OSError to a BenchError that says how to fix it."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose a writable folder with free space (`--results DIR`, `--out DIR`; for the cache "
            "set BENCH_CACHE, or use `--no-cache`)."
        ) from error


def content_of(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Raises:
        BenchError: the file exists but is unreadable.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read: {error.strerror or error}. It was not changed. Check its "
            "permissions and the disk, and repeat the command."
        ) from error


UNREADABLE = (  # raised by zipfile and its decoders for damaged archives
    *(zipfile.BadZipFile, NotImplementedError, EOFError, OSError),
    *(zlib.error, lzma.LZMAError, UnicodeDecodeError),
)
