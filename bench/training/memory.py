"""Estimate the memory of a training step, and find how much memory is available.

The step is executed on the meta device, whose tensors have shapes but no content, while the bytes
of all living tensors are counted. On a CPU they are multiplied by a measured factor, for the work
space inside operations and for gaps between freed blocks.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.api import FeatureExtractor, Head

ADAM_STATES = 2  # tensors of the optimiser per weight
# Peak of resident memory by peak of tensors, of training steps of `decoder` and `light` on maps of
# cmd-tiny, 64 to 128 px: 1.9 to 2.2; of `linear`, 128 to 384 px: 1.3. A GPU was not measured.
CPU_OVERHEAD = 2.0
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
CGROUP_FILES = (  # of version 2, and of version 1: limit, usage, and what can be evicted of it
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that are created in a block and alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self._live += size
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def training_bytes(
    head: Head, extractor: FeatureExtractor, side: int, patches: int, device_type: str = "cpu"
) -> int:
    """Return the estimated memory of a training step.

    Args:
        head, extractor: on the meta device; an extractor without trainable weights is not run.
        side: of the input, in pixels.
        patches: number of patches whose gradient is computed at once.
        device_type: the device that the step will run on.
    """
    head.train()
    weights = [w for w in [*head.parameters(), *extractor.parameters()] if w.requires_grad]
    frozen = not any(weight.requires_grad for weight in extractor.parameters())
    with torch.device("meta"), torch.enable_grad(), PeakMemory() as memory:
        target = torch.zeros(patches, side, side, dtype=torch.long)
        if frozen:
            shapes = zip(extractor.channels, extractor.strides, strict=True)
            maps = [
                torch.zeros(patches, c, side // s, side // s, dtype=torch.bfloat16).float()
                for c, s in shapes
            ]
        else:
            maps = extractor(torch.zeros(patches, 3, side, side))
        head.training_loss(maps, target).backward()
    for weight in weights:
        weight.grad = None
    overhead = CPU_OVERHEAD if device_type == "cpu" else 1
    states = (1 + ADAM_STATES) * sum(weight.nbytes for weight in weights)
    return round(overhead * memory.peak) + states


def extraction_bytes(extractor: FeatureExtractor, side: int, patches: int) -> int:
    """Return the largest number of bytes of tensors while the maps of patches are computed."""
    with torch.device("meta"), torch.no_grad(), PeakMemory() as memory:
        extractor(torch.zeros(patches, 3, side, side))
    return memory.peak


def is_divisible(head: Head, extractor: FeatureExtractor) -> bool:
    """Return whether a batch may be computed in parts: batch norm depends on the whole batch."""
    trained = [head] if not _trains(extractor) else [head, extractor]
    modules = [module for part in trained for module in part.modules()]
    return not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)


def _trains(extractor: FeatureExtractor) -> bool:
    return any(weight.requires_grad for weight in extractor.parameters())


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that this process can still allocate; None if the system does not say.

    On a CPU it is the smallest of the free memory of the machine, the limits of all control groups
    (a container or a SLURM job), and `ulimit -v`.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [*_free_bytes(), *_cgroup_bytes(), *_address_bytes()]
    return min(limits, default=None)


def _free_bytes() -> list[int]:
    fields = _fields(PROC / "meminfo")
    return [1024 * fields["MemAvailable"]] if "MemAvailable" in fields else []


def _cgroup_bytes() -> list[int]:
    """Return what is left of the limit of each control group that contains this process."""
    left = []
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, limit_file, usage_file, inactive in CGROUP_FILES:
            if controller not in controllers.split(","):
                continue
            root = CGROUPS / controller
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                limit, usage = _text(folder / limit_file), _text(folder / usage_file)
                if limit.strip().isdigit() and usage.strip().isdigit():
                    evictable = _fields(folder / "memory.stat").get(inactive, 0)
                    left.append(max(0, int(limit) - int(usage) + evictable))
                if folder == root:
                    break
    return left


def _address_bytes() -> list[int]:
    if sys.platform == "win32":
        return []
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(PROC / "self" / "statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return []
    return [max(0, limit - int(pages[0]) * resource.getpagesize())]


def _fields(path: Path) -> dict[str, int]:
    lines: Sequence[list[str]] = [line.split() for line in _text(path).splitlines()]
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
