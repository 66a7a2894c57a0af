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


class ProjectMaps(nn.Module):
    """Conv1x1 sum(C) -> D over maps that are bilinearly resized to one size, with one bias."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.conv = nn.Conv2d(sum(channels), out, 1)

    @property
    def weight(self) -> Tensor:
        """The weights over the channels of all maps, (D, sum(C))."""
        return self.conv.weight[:, :, 0, 0]

    @property
    def bias(self) -> Tensor:
        """The one bias, (D,)."""
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to (N, D, *size)."""
        weights = self.weight.split(self.channels, dim=1)  # [(D, C_i), ...]
        return project(maps, weights, size) + self.bias[:, None, None]  # (N, D, H, W)


def project(maps: Sequence[Tensor], weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Multiply each map (N, C_i, h_i, w_i) by (D, C_i), resize and add up: (N, D, *size)."""
    total = maps[0].new_zeros(())
    for features, weight in zip(maps, weights, strict=True):
        # A product of matrices: up to seven times as fast as conv2d on a CPU.
        projected = torch.einsum("dc,nchw->ndhw", weight, features)  # (N, D, h_i, w_i)
        total = total + F.interpolate(projected, size, mode="bilinear")  # (N, D, H, W)
    return total


class LinearHead(Head):
    """A linear classifier of every pixel, of features that have mean 0 and deviation 1.

    Features of different backbones differ in scale by orders of magnitude, and AdamW moves every
    weight by about the learning rate a step whatever that scale is: on raw features a probe
    measures scale before it measures content. With `standardise`, `observe` takes mean and standard
    deviation of every channel over the training images. They are constants of the training set, not
    weights, and are folded into weights and bias: the head stays linear and its count the same.
    Where nothing is observed, as with an extractor that trains, features are taken as they are.

    Weights start at zero, as in logistic regression: random ones would outlast a short training at
    a low learning rate where channels are few.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: Sequence[int], classes: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.standardise = standardise
        self.classify = ProjectMaps(channels, classes)
        nn.init.zeros_(self.classify.conv.weight)
        nn.init.zeros_(self.classify.bias)
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("deviation", torch.ones(sum(channels)))

    def observe(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """Take the mean and deviation of every channel over all pixels; images weigh the same."""
        if not self.standardise:
            return
        moments = [torch.cat([_moments(level) for level in pyramid], dim=2) for pyramid in maps]
        mean, square = torch.cat(moments, dim=1).mean(1)  # (sum(C),) each
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        varies = deviation > 1e-6 * square.sqrt()  # what never varies holds rounding noise only
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(varies, deviation, 1.0))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        scaled = self.classify.weight / self.deviation  # (K, sum(C))
        bias = self.classify.bias - scaled @ self.mean  # (K,)
        logits = project(maps, scaled.split(self.classify.channels, dim=1), size)  # (N, K, H, W)
        return logits + bias[:, None, None]


def _moments(features: Tensor) -> Tensor:
    """Take the mean and mean square of (N, C, h, w) over the pixels of each image, (2, N, C)."""
    pixels = features.double().flatten(2)  # (N, C, h w)
    return torch.stack([pixels.mean(2), pixels.square().mean(2)])
