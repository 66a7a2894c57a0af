"""File locks (one process per run), and the temporary files of killed processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

TEMPORARY = ".writing-"  # prefix of temporary files
OLD_S = 24 * 3600  # a temporary file that was not modified for this time is an orphan


@contextmanager
def locked(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; wait while another process holds it.

    The system releases the lock when the process ends, so locks are never stale.

    Args:
        on_wait: called once before waiting; an exception that it raises ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_orphans(folder: Path | None) -> None:
    """Delete the temporary files that killed processes left in a folder."""
    for path in orphans(folder) if folder is not None else ():
        with suppress(OSError):
            path.unlink()


def orphans(folder: Path) -> list[Path]:
    """List the temporary files of a folder that are older than a day."""
    return [path for path in sorted(folder.glob(f"{TEMPORARY}*")) if _is_old(path)]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > OLD_S
    except OSError:
        return False
