"""Retry in smaller batches after an out-of-memory error, and record that it happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import RunFailed


@dataclass
class BatchSplit:
    """Batch sizes that fit into memory, updated during a run.

    Attributes:
        patches: number of patches per forward pass of the extractor; None for the default.
        parts: number of parts of a training batch, whose gradients are accumulated.
    """

    patches: int | None = None
    parts: int = 1

    @property
    def facts(self) -> dict[str, int]:
        """The reduced sizes, for the record; empty if nothing was reduced."""
        facts = {}
        if self.patches is not None:
            facts["patches_at_once"] = self.patches
        if self.parts > 1:
            facts["parts_of_a_batch"] = self.parts
        return facts


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def no_room(what: str) -> RunFailed:
    """Return the error for work that exceeds memory even with one patch."""
    return RunFailed(
        f"out of memory (oom) at {what}, so there is no score. Use a smaller --input-px, or "
        "another --device."
    )


def map_patches(
    extract: Callable[[Tensor], list[Tensor]], patches: Tensor, at_once: int, fits: BatchSplit
) -> list[list[Tensor]]:
    """Extract the maps of (P, 3, S, S) in chunks; halve the chunks after out-of-memory errors.

    Args:
        at_once: largest number of patches per chunk.
        fits: stores the reduced number.

    Returns:
        The maps of each chunk.

    Raises:
        RunFailed: a single patch exceeds memory.
    """
    at_once = min(fits.patches or at_once, len(patches))
    while True:
        try:
            return [extract(chunk) for chunk in patches.split(at_once)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if at_once == 1:
                raise no_room(f"one patch of {patches.shape[-1]} px") from error
        # Outside of the handler, whose traceback holds references to tensors.
        at_once = fits.patches = at_once // 2
        _empty_cache()


def accumulate(
    part: Callable[[Sequence[int]], Tensor],
    batch: Sequence[int],
    clear: Callable[[], object],
    fits: BatchSplit,
) -> float:
    """Accumulate the gradients of a batch; double its number of parts after out-of-memory errors.

    The loss of a part is weighted by its share of the batch. For a loss that is a mean over images,
    such as cross-entropy, this is the gradient of the whole batch; for other losses and batch norm
    it is not.

    Args:
        part: returns the loss of a part of the batch.
        clear: resets the gradients.
        fits: stores the number of parts.

    Returns:
        The loss of the batch.

    Raises:
        RunFailed: a single patch exceeds memory.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    while True:
        cpu_state = torch.get_rng_state()
        gpu_state = torch.cuda.get_rng_state() if on_gpu else None
        try:
            return _accumulate_in_parts(part, batch, fits.parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if fits.parts >= len(batch):
                raise no_room("training on one patch at once") from error
        fits.parts *= 2
        clear()
        _empty_cache()
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state)


def _accumulate_in_parts(
    part: Callable[[Sequence[int]], Tensor], batch: Sequence[int], n_parts: int
) -> float:
    """Add the gradients of a batch in parts, and return its loss."""
    size = -(-len(batch) // n_parts)
    total = 0.0
    for start in range(0, len(batch), size):
        indices = batch[start : start + size]
        share = len(indices) / len(batch)
        loss = part(indices)
        (loss if share == 1 else loss * share).backward()
        total += float(loss.detach()) * share
    return total


def _empty_cache() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
