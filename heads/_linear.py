"""A 1x1 convolution over maps of several resolutions, and the linear classifier that it makes.

Bilinear resizing and a 1x1 convolution commute, so the up-sampled concatenation of the maps is
never built: W cat_i(up(f_i)) + b = sum_i up(W_i f_i) + b.

Letters: N images, C_i channels and h_i x w_i pixels of map i, D channels out, K classes, H x W the
output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head

FLOOR = 0.1  # of the root mean square: a channel that hardly varies is not blown up


class ProjectMaps(nn.Module):
    """Conv1x1 sum(C) -> D over maps that are bilinearly resized to one size, with one bias."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Conv2d(width, out, 1, bias=i == 0) for i, width in enumerate(channels)
        )

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to (N, D, *size)."""
        resized = []
        for part, features in zip(self.parts, maps, strict=True):
            projected = part(features)  # (N, D, h_i, w_i)
            resized.append(F.interpolate(projected, size, mode="bilinear"))  # (N, D, H, W)
        return torch.stack(resized).sum(0)


class Standardise(nn.Module):
    """Divide every channel by a constant; change nothing until maps are observed."""

    spread: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.register_buffer("spread", torch.ones(sum(channels)))

    def observe(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """Set the constants to the standard deviations over all pixels; images weigh the same."""
        total, images = torch.zeros(2, sum(self.channels), dtype=torch.float64), 0
        for pyramid in maps:
            total += torch.cat([_moments(features) for features in pyramid], dim=1).cpu()
            images += len(pyramid[0])
        mean, square = total / images
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        spread = torch.maximum(deviation, FLOOR * square.sqrt())
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [(N, C_i, h_i, w_i), ...] to the same shapes."""
        spreads = self.spread.view(1, -1, 1, 1).split(self.channels, dim=1)  # [(1, C_i, 1, 1), ...]
        return [features / spread for features, spread in zip(maps, spreads, strict=True)]


def _moments(features: Tensor) -> Tensor:
    pixels = features.double().flatten(2)  # (N, C, h w)
    return torch.stack([pixels.mean(2), pixels.square().mean(2)]).sum(1)  # (2, C)


class LinearHead(Head):
    """A linear classifier of every pixel.

    Features of different backbones differ in scale by orders of magnitude, and AdamW moves every
    weight by about the learning rate a step whatever that scale is: on raw features a probe
    measures scale before it measures content. With `standardise`, `observe` takes the standard
    deviation of every channel over the training images, and features are divided by it. They are
    not centred: nuclei are the minority, so logits need an offset, which the means of many channels
    bring within a few steps and one bias, moving by the learning rate, does not. The divisors are
    constants of the training set, not weights: the head stays linear and its count the same. Where
    nothing is observed, as with an extractor that trains, features are taken as they are.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.standardise = Standardise(channels) if standardise else None
        self.classify = ProjectMaps(channels, classes)

    def observe(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """Take the divisors from the training maps."""
        if self.standardise:
            self.standardise.observe(maps)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        if self.standardise:
            maps = self.standardise(maps)
        return self.classify(maps, size)  # (N, K, H, W)
