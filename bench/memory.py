"""Keep freed memory in the process: training steps then reuse it instead of faulting in new pages.

glibc returns every block above 32 MiB to the system when it is freed, and a training step over
dense maps frees hundreds of MiB: on two cores more than half of a step went into page faults.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks; elsewhere than on Linux with glibc do nothing."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 1 << 30)
        mallopt(TRIM_THRESHOLD, LARGEST)
