"""Find the cache folder, and check whether it is writable."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

from bench.errors import BenchError

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Return the cache folder: BENCH_CACHE, or cmd-bench in the XDG cache folder.

    Raises:
        BenchError: the folder is not readable, or there is neither BENCH_CACHE nor a home folder.
    """
    named, xdg = os.environ.get("BENCH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            root = Path(named).expanduser()
        else:
            root = (Path(xdg) if xdg else Path.home() / ".cache") / "cmd-bench"
    except RuntimeError as error:
        raise _unusable("there is no folder for the cache: this user has no home folder") from error
    if _is_locked(root):
        raise _unusable(f"the cache folder {root} is not readable")
    return root


def _is_locked(root: Path) -> bool:
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not os.access(root, os.R_OK | os.X_OK)


def _unusable(reason: str) -> BenchError:
    return BenchError(
        f"{reason}. Set BENCH_CACHE to another folder, or use `bench run --no-cache`."
    )


def cache_root_if_any() -> Path | None:
    """Return the cache folder, or None if there is no usable one."""
    try:
        return cache_root()
    except BenchError:
        return None


def is_writable(folder: Path) -> bool:
    """Return whether files can be written to a folder, which does not have to exist yet."""
    for path in (folder, *folder.parents):
        if os.access(path, os.F_OK):
            return os.access(path, os.W_OK | os.X_OK)
    return False


@cache
def say_read_only(root: Path) -> None:
    """Warn once that a cache is read-only."""
    log.warning(
        "the cache %s is not writable: it is used read-only. Set BENCH_CACHE to another folder to "
        "cache new results.",
        root,
    )
