"""Random decisions by a generator that is passed in: all that augmentation leaves to chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chance:
    """Draws from a CPU generator, so that a seed means the same on every device."""

    generator: torch.Generator

    def happens(self, probability: float) -> bool:
        """Say yes with this probability."""
        return self.between(0, 1) < probability

    def between(self, low: float, high: float) -> float:
        """Draw evenly from [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def below(self, count: int) -> int:
        """Draw one of 0, ..., count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def around_one(self, low: float, high: float) -> float:
        """Draw below 1 as often as above it: from [low, 1) or from [1, high)."""
        return self.between(low, 1) if self.happens(0.5) else self.between(1, high)

    def noise(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers in the shape of a tensor, on its device."""
        drawn = torch.randn(like.shape, generator=self.generator)
        return drawn.to(like)
