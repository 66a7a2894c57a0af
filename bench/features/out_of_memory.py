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


def no_room(what: str, fix: str = "") -> RunFailed:
    """Return the error for work that exceeds memory even with one patch."""
    return RunFailed(
        f"out of memory (oom) at {what}, so there is no score. Use {fix}a smaller --input-px, or "
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


@dataclass(frozen=True)
class JointLoss:
    """The loss of a batch as a function of its logits, so that it can be computed in parts exactly.

    Attributes:
        logits: returns the logits of a part of the batch, (n, K, H, W) float32.
        loss: returns the loss of the logits of the whole batch.
    """

    logits: Callable[[Sequence[int]], Tensor]
    loss: Callable[[Tensor], Tensor]


def accumulate(
    part: Callable[[Sequence[int]], Tensor],
    batch: Sequence[int],
    clear: Callable[[], object],
    fits: BatchSplit,
    *,
    joint: JointLoss | None = None,
    divisible: bool = True,
) -> float:
    """Accumulate the gradients of a batch; double its number of parts after out-of-memory errors.

    Args:
        part: returns the loss of a part of the batch.
        clear: resets the gradients.
        fits: stores the number of parts.
        joint: gives the gradient of the whole batch up to rounding, in two passes over the parts.
            None: the loss of a part is weighted by its share of the batch, which is the gradient of
            the whole batch only if the loss is a mean over images.
        divisible: False refuses parts, since batch norm depends on the whole batch.

    Returns:
        The loss of the batch.

    Raises:
        RunFailed: a single patch, or a batch that is not divisible, exceeds memory.
    """
    while True:
        restore = _random_state()
        try:
            if joint is not None and fits.parts > 1:
                return _accumulate_jointly(joint, _split(batch, fits.parts), restore)
            return _accumulate_in_parts(part, batch, fits.parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not divisible:
                what = f"training on {len(batch)} patches, which batch norm needs at once"
                raise no_room(what, "`--head linear`, ") from error
            if fits.parts >= len(batch):
                raise no_room("training on one patch at once") from error
        fits.parts *= 2
        clear()
        _empty_cache()
        restore()


def _split(batch: Sequence[int], n_parts: int) -> list[Sequence[int]]:
    size = -(-len(batch) // n_parts)
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def _accumulate_in_parts(
    part: Callable[[Sequence[int]], Tensor], batch: Sequence[int], n_parts: int
) -> float:
    """Add the gradients of a batch in parts, and return its loss."""
    total = 0.0
    for indices in _split(batch, n_parts):
        share = len(indices) / len(batch)
        loss = part(indices)
        (loss if share == 1 else loss * share).backward()
        total += float(loss.detach()) * share
    return total


def _accumulate_jointly(
    joint: JointLoss, parts: Sequence[Sequence[int]], restore: Callable[[], None]
) -> float:
    """Compute the gradient of the loss by all logits, then that of the weights part by part."""
    with torch.no_grad():
        logits = torch.cat([joint.logits(part) for part in parts])  # (N, K, H, W)
    loss = joint.loss(logits.requires_grad_())
    (gradient,) = torch.autograd.grad(loss, logits)
    restore()  # of dropout, which is the same in both passes
    for part, of_part in zip(parts, gradient.split([len(p) for p in parts]), strict=True):
        joint.logits(part).backward(of_part)
    return float(loss.detach())


def _random_state() -> Callable[[], None]:
    """Return a function that restores the current state of the random generators."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    cpu_state = torch.get_rng_state()
    gpu_state = torch.cuda.get_rng_state() if on_gpu else None

    def restore() -> None:
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state)

    return restore


def _empty_cache() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
