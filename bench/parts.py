"""Where memory does not suffice: the same work in smaller parts, and a note that it was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import RunFailed


@dataclass
class Fits:
    """What was found to fit into memory, in the course of a run.

    Attributes:
        patches: that go through an extractor at once; None: as many as were tried first.
        parts: in which a training batch is learned; the gradient is that of the whole batch.
    """

    patches: int | None = None
    parts: int = 1

    @property
    def facts(self) -> dict[str, int]:
        """Tell what was made smaller; empty where nothing was."""
        patches = {} if self.patches is None else {"patches_at_once": self.patches}
        return patches | ({"parts_of_a_batch": self.parts} if self.parts > 1 else {})


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an error of an allocation from all others, on a GPU and on the CPU."""
    kinds = torch.OutOfMemoryError, MemoryError
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def no_room(what: str) -> RunFailed:
    """Give the failure of what does not fit even alone."""
    return RunFailed(
        f"out of memory (oom) at {what}; no score was made. Give a smaller --input-px, or another "
        "--device."
    )


def map_patches(
    extract: Callable[[Tensor], list[Tensor]], patches: Tensor, at_once: int, fits: Fits
) -> list[list[Tensor]]:
    """Extract (P, 3, S, S) so many at once; half as many, again and again, where memory ends.

    Raises:
        RunFailed: one patch alone does not fit.
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
        at_once = fits.patches = at_once // 2  # out of the handler, which holds on to tensors
        _give_back()


def learn(
    part: Callable[[Sequence[int]], Tensor],
    batch: Sequence[int],
    clear: Callable[[], object],
    fits: Fits,
) -> float:
    """Add the gradients of a batch, in twice as many parts, again and again, where memory ends.

    The loss of a part counts by its share of the batch: a loss that is a mean over images, such as
    cross-entropy, has the gradient of the whole batch. One that is not, and batch norm, see parts.

    Args:
        part: gives the loss of some of the batch.
        clear: sets gradients back to none.

    Returns:
        The loss of the batch.

    Raises:
        RunFailed: one patch alone does not fit.
    """
    while True:
        state = _random_state()
        try:
            return sum(
                _backward(part(some), len(some) / len(batch)) for some in _split(batch, fits)
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if fits.parts >= len(batch):
                raise no_room("training on one patch at once") from error
        fits.parts *= 2
        clear()
        _give_back()
        _set_random_state(state)


def _split(batch: Sequence[int], fits: Fits) -> list[Sequence[int]]:
    size = -(-len(batch) // fits.parts)
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def _backward(loss: Tensor, share: float) -> float:
    (loss if share == 1 else loss * share).backward()
    return float(loss.detach()) * share


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if _has_gpu() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _give_back() -> None:
    if _has_gpu():
        torch.cuda.empty_cache()


def _has_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
