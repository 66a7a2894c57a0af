"""File locks: one process per run, and temporary files that belong to a running process.

The kernel releases a lock when its process ends, so locks are never stale.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WRITING = ".writing-"  # prefix of temporary files
OLD_S = 3600  # an unlocked temporary file that was not modified for this time is an orphan


@contextmanager
def claimed(path: Path, waits: Callable[[], object]) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; wait while another process holds it.

    Args:
        waits: called once before waiting; an exception that it raises ends the wait.
    """
    handle = _lock_file(path, waits)
    try:
        yield
    finally:
        os.close(handle)


def _lock_file(path: Path, waits: Callable[[], object]) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except FileNotFoundError:  # another process committed the run and removed the folder
            continue
        if not lock(handle):
            try:
                waits()
            except BaseException:
                os.close(handle)
                raise
            lock(handle, wait=True)
        if _is_current(path, handle):
            return handle
        os.close(handle)  # the other process committed the run and removed the file


def _is_current(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock.

    On systems without such locks (Windows, some network file systems) this returns True without
    locking. Two processes may then compute the same run; the first one commits it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sweep(folder: Path | None) -> None:
    """Delete the temporary files of killed processes in a folder."""
    for path in orphans(folder) if folder is not None else ():
        with suppress(OSError):
            path.unlink()


def orphans(folder: Path) -> list[Path]:
    """List the temporary files of a folder that are old and unlocked."""
    return [path for path in sorted(folder.glob(f"{WRITING}*")) if _is_orphan(path)]


def _is_orphan(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime < OLD_S:
            return False
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return lock(handle)
    finally:
        os.close(handle)
