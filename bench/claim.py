"""What a process holds while it lives: its claim on a run, and the temporary files it writes.

Both are locks of the kernel, which end with their process however that ends. So no claim is ever
stale, and the number of a process that died means nothing when it is given to another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WRITING = ".writing-"  # how the names of temporary files begin
OLD_S = 3600  # a temporary file that nobody wrote to for as long, and nobody holds, is an orphan


@contextmanager
def claimed(path: Path, waits: Callable[[], object]) -> Iterator[None]:
    """Hold a run by the file `path`, after the process that holds it now has let go.

    Args:
        waits: called once where another process holds it; what it raises ends the wait.
    """
    handle = _held(path, waits)
    try:
        yield
    finally:
        os.close(handle)


def _held(path: Path, waits: Callable[[], object]) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except FileNotFoundError:  # its folder went between the two lines: a run was committed
            continue
        if not lock(handle):
            _told(waits, handle)
            lock(handle, wait=True)
        if _is_still(path, handle):
            return handle
        os.close(handle)  # who held it has committed the run, and the file went with that


def _told(waits: Callable[[], object], handle: int) -> None:
    """Say that one has to wait; who will not, raises."""
    try:
        waits()
    except BaseException:
        os.close(handle)
        raise


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where another one holds it.

    Where there are no such locks (Windows, some network file systems) nothing is held: two
    processes may then make one run, and the first commits it.
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
    """Delete the temporary files that killed processes have left in a folder."""
    for path in orphans(folder) if folder is not None else ():
        with suppress(OSError):
            path.unlink()


def orphans(folder: Path) -> list[Path]:
    """List the temporary files of a folder that are old and that no process holds."""
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
