"""Random draws of augmentation, from a generator that the caller passes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chance:
    """Random draws from a CPU generator, so that a seed gives the same draws on every device."""

    generator: torch.Generator

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.between(0, 1) < probability

    def between(self, low: float, high: float) -> float:
        """Draw uniformly from [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def below(self, count: int) -> int:
        """Draw an integer from 0, ..., count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def around_one(self, low: float, high: float) -> float:
        """Draw from [low, 1) or from [1, high), each with probability 0.5."""
        return self.between(low, 1) if self.happens(0.5) else self.between(1, high)

    def noise(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers with the shape, dtype and device of a tensor."""
        return torch.randn(like.shape, generator=self.generator).to(like)
