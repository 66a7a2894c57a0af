"""What stands on a frozen backbone: it stays in evaluation mode while the rest trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from bench.api import Backbone
from bench.errors import BenchError
from bench.interface import FeatureExtractor


class OnFrozen(FeatureExtractor):
    """An extractor around another; a file of weights is the inner one's."""

    def __init__(self, inner: FeatureExtractor) -> None:
        super().__init__()
        self.inner = inner.eval()
        self.channels, self.strides = tuple(inner.channels), tuple(inner.strides)
        self.mean, self.std = inner.mean, inner.std
        self.facts = inner.facts

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the inner extractor."""
        super().train(mode)
        self.inner.eval()
        return self

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.inner.load(state)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Give the weights that train, as one group."""
        return [[each for each in self.parameters() if each.requires_grad]]


def build_frozen(inner: Backbone, options: Mapping[str, object]) -> FeatureExtractor:
    """Build a backbone with random weights.

    Raises:
        BenchError: it trains by itself.
    """
    extractor = inner.build(**options)
    trains = sum(each.numel() for each in extractor.parameters() if each.requires_grad)
    if trains:
        raise BenchError(
            f"{inner.name} trains {trains:,} parameters itself, and only a frozen backbone can be "
            "adapted: use it as it is, or name another."
        )
    return extractor
