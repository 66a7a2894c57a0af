"""A 1x1 convolution over maps of several resolutions, and the linear classifier that it makes.

Bilinear resizing and a 1x1 convolution commute, so the up-sampled concatenation of the maps is
never built: W cat_i(up(f_i)) + b = sum_i up(W_i f_i) + b.

Letters: N images, C_i channels and h_i x w_i pixels of map i, D channels out, K classes, H x W the
output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head
from bench.loss import loss_of_margin
from bench.runner import full_precision

FAR = 8  # times as large: from there on matrices are the faster way to resize


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
        total = total + enlarge(projected, size)  # (N, D, H, W)
    return total


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, D, h, w) bilinearly to (N, D, *size).

    Far up, two products of matrices do it in a half to a quarter of the time of `interpolate` and
    its gradient on a CPU, equal to rounding; on a GPU their gradient is the same each time too.
    """
    height, width = maps.shape[-2:]
    if size[0] < FAR * height or size[1] < FAR * width:
        return F.interpolate(maps, size, mode="bilinear")
    with full_precision(maps.device.type):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        down = line(height, size[0], maps.dtype, maps.device)  # (H, h)
        across = line(width, size[1], maps.dtype, maps.device)  # (W, w)
        return down @ maps @ across.T  # (N, D, H, W)


@lru_cache(maxsize=16)
def line(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give the matrix (after, before) that resizes a line linearly."""
    with torch.inference_mode(False):
        unit = torch.eye(before, dtype=dtype, device=device)[None]
        return F.interpolate(unit, after, mode="linear")[0].T.contiguous()


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
        return self._logits(maps, size, self.classify.weight, self.classify.bias)

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Give the loss; two classes differ by one map alone, which is resized instead of both.

        Args:
            maps: [(N, C_i, h_i, w_i), ...].
            target: (N, H, W) int64 class numbers.
        """
        if len(self.classify.bias) != 2:
            return super().training_loss(maps, target)
        (weight,), (bias,) = self.classify.weight.diff(dim=0), self.classify.bias.diff()
        height, width = target.shape[-2:]
        margin = self._logits(maps, (height, width), weight[None], bias[None]).float()
        return loss_of_margin(margin[:, 0], target)

    def _logits(
        self, maps: Sequence[Tensor], size: tuple[int, int], weight: Tensor, bias: Tensor
    ) -> Tensor:
        """Classify by weights (K, sum(C)) and biases (K,) over standardised features."""
        scaled = weight / self.deviation  # (K, sum(C))
        bias = bias - scaled @ self.mean  # (K,)
        logits = project(maps, scaled.split(self.classify.channels, dim=1), size)  # (N, K, H, W)
        return logits + bias[:, None, None]


def _moments(features: Tensor) -> Tensor:
    """Take the mean and mean square of (N, C, h, w) over the pixels of each image, (2, N, C)."""
    pixels = features.double().flatten(2)  # (N, C, h w)
    return torch.stack([pixels.mean(2), pixels.square().mean(2)])
