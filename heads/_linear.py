"""A 1x1 convolution over maps of several resolutions, and the linear probe built on it.

Bilinear resizing and a 1x1 convolution commute, so the up-sampled concatenation of the maps is
never built: W cat_i(up(f_i)) + b = sum_i up(W_i f_i) + b.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, D channels out, K classes, H x W the
output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import LinearClassifier
from bench.api.nn import full_precision, loss_of_margin

FAR = 8  # up-sampling factor above which matrix products are faster than `interpolate`


class ProjectMaps(nn.Module):
    """Conv1x1 sum(C) -> D over the concatenation of bilinearly resized maps."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.conv = nn.Conv2d(sum(channels), out, 1)

    @property
    def weight(self) -> Tensor:
        """Weight matrix over the channels of all maps, (D, sum(C))."""
        return self.conv.weight[:, :, 0, 0]

    @property
    def bias(self) -> Tensor:
        """Bias, (D,)."""
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to (N, D, *size)."""
        weights = self.weight.split(self.channels, dim=1)  # [(D, C_i), ...]
        return project(maps, weights, size) + self.bias[:, None, None]  # (N, D, H, W)


def project(maps: Sequence[Tensor], weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Project each map (N, C_i, h_i, w_i) by (D, C_i), resize and sum: (N, D, *size)."""
    total = maps[0].new_zeros(())
    for features, weight in zip(maps, weights, strict=True):
        # Up to seven times as fast as conv2d on a CPU.
        projected = torch.einsum("dc,nchw->ndhw", weight, features)  # (N, D, h_i, w_i)
        total = total + enlarge(projected, size)  # (N, D, H, W)
    return total


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, D, h, w) bilinearly to (N, D, *size).

    From a factor of `FAR` on, two matrix products take a half to a quarter of the time of
    `interpolate` and its gradient on a CPU, with the same result up to rounding. On a GPU their
    gradient is also deterministic.
    """
    height, width = maps.shape[-2:]
    if size[0] < FAR * height or size[1] < FAR * width:
        return F.interpolate(maps, size, mode="bilinear")
    with full_precision(maps.device.type):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        down = resize_matrix(height, size[0], maps.dtype, maps.device)  # (H, h)
        across = resize_matrix(width, size[1], maps.dtype, maps.device)  # (W, w)
        return down @ maps @ across.T  # (N, D, H, W)


@lru_cache(maxsize=16)
def resize_matrix(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix (after, before) of 1D linear interpolation."""
    with torch.inference_mode(False):
        unit = torch.eye(before, dtype=dtype, device=device)[None]
        return F.interpolate(unit, after, mode="linear")[0].T.contiguous()


class LinearHead(LinearClassifier):
    """Linear classifier of every pixel, on standardised features.

    Features of different backbones differ in scale by orders of magnitude, but AdamW changes every
    weight by about the learning rate per step whatever that scale is, so a probe of raw features
    would measure their scale first. With `standardise`, `observe` computes the mean and standard
    deviation of every channel over the training images. They are constants of the training set, not
    weights, and are folded into weights and bias: the head stays linear, with the same number of
    parameters. If `observe` is not called, as for an extractor that is trained, features are used
    unchanged.

    Weights start at zero, as in logistic regression: with few channels and a low learning rate, a
    short training would not overcome a random initialisation.
    """

    loss_is_of_logits = True
    mean: Tensor
    deviation: Tensor
    threshold: Tensor  # of the probability of a nucleus, (), with two classes

    def __init__(self, channels: Sequence[int], classes: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.standardise = standardise
        self.classify = ProjectMaps(channels, classes)
        nn.init.zeros_(self.classify.conv.weight)
        nn.init.zeros_(self.classify.bias)
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("deviation", torch.ones(sum(channels)))
        self.register_buffer("threshold", torch.tensor(0.5))

    def set_solution(
        self, mean: Tensor, deviation: Tensor, weight: Tensor, bias: Tensor, threshold: float
    ) -> None:
        """See `LinearClassifier.set_solution`."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.threshold.fill_(threshold)
        with torch.no_grad():
            self.classify.weight.copy_(torch.stack([-weight, weight]) / 2)
            self.classify.bias.copy_(torch.stack([-bias, bias]) / 2)

    @torch.inference_mode()
    def decode(self, logits: Tensor) -> Tensor:
        """Turn logits (N, K, H, W) into class numbers (N, H, W) int64."""
        if logits.shape[1] != 2:
            return super().decode(logits)
        background, nucleus = logits.unbind(1)  # (N, H, W) each
        return (nucleus - background > self.threshold.logit()).long()

    def observe(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """Compute the mean and deviation of every channel over all pixels, images weighted equally.

        Args:
            maps: for each batch of training images, [(N, C_i, h_i, w_i), ...].
        """
        if not self.standardise:
            return
        moments = [torch.cat([_moments(level) for level in pyramid], dim=2) for pyramid in maps]
        mean, square = torch.cat(moments, dim=1).mean(1)  # (sum(C),) each
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        varies = deviation > 1e-6 * square.sqrt()  # otherwise the deviation is rounding noise
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(varies, deviation, 1.0))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        return self._logits(maps, size, self.classify.weight, self.classify.bias)

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the loss; for two classes, only the difference of their logits is resized.

        Args:
            maps: [(N, C_i, h_i, w_i), ...].
            target: (N, H, W) int64 class indices.
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
        """Classify standardised features with weight (K, sum(C)) and bias (K,)."""
        scaled = weight / self.deviation  # (K, sum(C))
        bias = bias - scaled @ self.mean  # (K,)
        logits = project(maps, scaled.split(self.classify.channels, dim=1), size)  # (N, K, H, W)
        return logits + bias[:, None, None]


def _moments(features: Tensor) -> Tensor:
    """Return the mean and mean square of (N, C, h, w) over pixels, (2, N, C)."""
    pixels = features.double().flatten(2)  # (N, C, h w)
    return torch.stack([pixels.mean(2), pixels.square().mean(2)])
