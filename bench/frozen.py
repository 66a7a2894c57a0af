"""What is frozen ends a run as it began: a plug-in that changes its weights makes no score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.errors import RunFailed

_sums: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()  # when it was first seen


@contextmanager
def stays_frozen(
    extractor: nn.Module, was_used: Callable[[], bool], forget: Callable[[], object]
) -> Iterator[None]:
    """Sum up the bits of an extractor before and after a block that used it.

    Args:
        was_used: whether it was, in the block.
        forget: called where it has changed, to drop what the block made with it.

    Raises:
        RunFailed: a weight or a buffer has changed.
    """
    if extractor not in _sums:
        _sums[extractor] = sums(extractor)
    yield
    if was_used() and sums(extractor) != _sums[extractor]:
        forget()
        raise RunFailed(
            "the backbone is frozen, but changed its weights while it ran, so its features depend "
            "on the order of the images; no score was made. Mend its `forward`."
        )


def sums(module: nn.Module) -> list[int]:
    """Give the sum of the bits of every weight and buffer, as integers: one that changes shows."""
    return [_sum(each) for each in module.state_dict().values()]


def _sum(values: Tensor) -> int:
    single = values.detach().contiguous().flatten().view(torch.uint8)
    whole = len(single) // 8 * 8
    words = single[:whole].clone() if single.storage_offset() % 8 else single[:whole]
    return int(words.view(torch.int64).sum()) + int(single[whole:].sum())  # in eights: quicker
