"""Base class of the diffusion networks, and their embedding of time and condition.

Letters: N images, K channels of x, h and w its sides, C width of a network or a level, D width of
the condition.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError

TIME_WIDTH = 256


class DiffusionNetwork(nn.Module, ABC):
    """A denoising network conditioned on time whose block outputs serve as features.

    Its input x is an image, RGB in [-1, 1], or the four latent channels of one.

    Attributes:
        channels: output channels of every block.
        strides: pixels of x per pixel of a block's output.
        default_blocks: numbers of the blocks whose outputs are the features by default.
        multiple: divisor of both sides of x.
        in_channels: K.
        cond_dim: D; None without a condition embedding.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    default_blocks: tuple[int, ...]
    multiple: int
    in_channels: int
    cond_dim: int | None

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the clean x, or the noise in it (equation 3).

        Args:
            x: (N, K, h, w) corrupted, both sides divisible by `multiple`.
            t: (N,) int64 in 1 .. T.
            condition: (N, D) of the uncorrupted images; None without a condition embedding.

        Returns:
            (N, K, h, w).

        Raises:
            BenchError: x has another shape, or the condition is missing or superfluous.
        """

    @abstractmethod
    def features(
        self, x: Tensor, t: Tensor, condition: Tensor | None, blocks: Sequence[int]
    ) -> list[Tensor]:
        """Return the outputs of `blocks`; the network stops after the last of them.

        Other arguments and errors are those of `forward`.

        Returns:
            [(N, channels[b], h / strides[b], w / strides[b]) for b in blocks].
        """

    def check(self, x: Tensor, condition: Tensor | None) -> None:
        """Raise a BenchError if `forward` does not take these arguments."""
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise BenchError(
                f"the network takes {self.in_channels} channels, got {channels}: images have 3, "
                "their latents 4."
            )
        if height % self.multiple or width % self.multiple:
            raise BenchError(
                f"the network takes sides divisible by {self.multiple}, got {height} x {width}: "
                "resize or pad the images."
            )
        if (condition is None) != (self.cond_dim is None):
            expected = "none" if self.cond_dim is None else f"one of width {self.cond_dim}"
            got = "none" if condition is None else f"one of width {condition.shape[1]}"
            raise BenchError(f"the network takes a condition: {expected}; got {got}.")


def checked_width(cond_dim: int | None) -> int | None:
    """Return the width of a condition, or raise a BenchError if it is below 1."""
    if cond_dim is not None and cond_dim < 1:
        raise BenchError(f"cond_dim {cond_dim} is below 1: pass the width of the condition.")
    return cond_dim


def time_waves(t: Tensor, width: int = TIME_WIDTH) -> Tensor:
    """Embed (N,) time steps as (N, width) float32: cosines, then sines, up to period 10,000."""
    half = width // 2
    powers = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * powers)  # (N, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (N, width)


class Perceptron(nn.Module):
    """A two-layer perceptron with SiLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.silu(self.first(x.to(self.first.weight.dtype))))  # (N, C)


class Condition(nn.Module):
    """c = time + condition for one width (equation 4)."""

    def __init__(self, width: int, cond_dim: int | None) -> None:
        super().__init__()
        self.time = Perceptron(TIME_WIDTH, width)
        self.feature = None if cond_dim is None else Perceptron(cond_dim, width)

    def forward(self, t: Tensor, condition: Tensor | None) -> Tensor:
        c = self.time(time_waves(t))  # (N, C)
        if self.feature is None:
            return c
        return c + self.feature(condition)  # (N, C)


def initialise_linearly(network: nn.Module) -> None:
    """Initialise Linear and Conv2d layers by Xavier-uniform, time embeddings by N(0, 0.02).

    Biases are zero. As in FCDM and DiT; the network itself sets its zero-initialised layers.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Condition):
            nn.init.normal_(module.time.first.weight, std=0.02)
            nn.init.normal_(module.time.second.weight, std=0.02)
