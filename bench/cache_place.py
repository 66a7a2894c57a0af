"""Where a user's cache lies, and whether it may be written to."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

from bench.errors import BenchError

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Give the user's cache folder: BENCH_CACHE, or cmd-bench in the XDG cache folder.

    Raises:
        BenchError: the user has no home folder and names none for the cache, or may not look into
            the one that there is.
    """
    named, xdg = os.environ.get("BENCH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            root = Path(named).expanduser()
        else:
            root = (Path(xdg) if xdg else Path.home() / ".cache") / "cmd-bench"
    except RuntimeError as error:
        raise _no_place(
            "this user has no home folder, so there is no place for the cache"
        ) from error
    if _is_locked(root):
        raise _no_place(f"this user may not look into {root}")
    return root


def _is_locked(root: Path) -> bool:
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not os.access(root, os.R_OK | os.X_OK)


def _no_place(reason: str) -> BenchError:
    return BenchError(
        f"{reason}: set BENCH_CACHE to another folder. `bench run --no-cache` goes without."
    )


def cache_root_if_any() -> Path | None:
    """Give the user's cache folder; None where there is no place for one."""
    try:
        return cache_root()
    except BenchError:
        return None


def is_writable(folder: Path) -> bool:
    """Tell whether this user may put files into a folder, which need not be there yet."""
    there = next((each for each in (folder, *folder.parents) if os.access(each, os.F_OK)), None)
    return there is not None and os.access(there, os.W_OK | os.X_OK)


@cache
def say_read_only(root: Path) -> None:
    """Tell, once, that nothing new is kept in a cache."""
    log.warning(
        "the cache %s cannot be written: what it holds is used, and nothing new is kept. "
        "BENCH_CACHE names another folder.",
        root,
    )
