"""Every file that the product writes: whole or not at all, by temporary file, fsync and rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.errors import BenchError


def write_bytes(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Args:
        path: its folder is made where it does not exist.
        replace: False leaves an existing file alone.

    Returns:
        Whether the file was written; False only with `replace=False` and a file that was there.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    except OSError as error:
        raise BenchError(_cannot_write(path, error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        if replace:
            Path(temporary).replace(path)
            return True
        return _link_new(Path(temporary), path)
    except OSError as error:
        raise BenchError(_cannot_write(path, error)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _link_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"cannot write {path}: {error.strerror or error}. "
        "Choose a folder with room that you may write to (`--results DIR`, `--out DIR`)."
    )
