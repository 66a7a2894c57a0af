"""Environment and timing of a run; not part of its identity."""

from __future__ import annotations

import platform
import sys
import time
from datetime import UTC, datetime

import torch

from bench import __version__
from bench.features.numerics import numerics


class Stopwatch:
    """Add the seconds of a `with` block to a ledger."""

    def __init__(self, ledger: dict[str, float], name: str) -> None:
        self.ledger, self.name = ledger, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.ledger[self.name] += time.perf_counter() - self.began


def describe(device: torch.device, seconds: dict[str, float]) -> dict[str, object]:
    """Return the time, the machine and the seconds of a run that has just finished."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_memory_mib": _peak_memory_mib(device),
        "bench": __version__,
        **numerics(device),
        "device_name": _device_name(device),
    }


def _peak_memory_mib(device: torch.device) -> int | None:
    """Return the peak memory of the GPU, or of this process on a CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)  # bytes there, KiB elsewhere


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"
