"""The cascaded up-sampler of TransUNet (Chen et al., arXiv:2102.04306, section 3.2).

The coarsest map is reduced to 512 channels and passes through four blocks. Each block up-samples,
concatenates the next finer map as a skip if there is one, and convolves twice. As in TransUNet,
up-sampling is bilinear with aligned corners. Maps of the same stride form one skip. If strides are
not successive halves, features are resized to the size of the next skip.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, K classes, H x W the output; h x w
is the resolution of the current block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head
from bench.errors import BenchError

from ._decoder import BLOCKS, REDUCED, up_factors


def group_by_stride(strides: Sequence[int]) -> list[list[int]]:
    """Return the indices of the maps of each stride, coarsest stride first.

    Raises:
        BenchError: there are more distinct strides than blocks plus one.
    """
    distinct = sorted(set(strides), reverse=True)
    if len(distinct) > len(BLOCKS) + 1:
        raise BenchError(
            f"decoder-cup takes maps of at most {len(BLOCKS) + 1} strides, got {distinct}: "
            "choose fewer maps, or the head 'light' or 'decoder'."
        )
    return [[i for i, s in enumerate(strides) if s == stride] for stride in distinct]


class DecoderCup(Head):
    """Conv3x3 to 512 channels, four blocks with skips, Conv3x3 to K."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.groups = group_by_stride(strides)
        coarsest, *skips = [sum(channels[i] for i in group) for group in self.groups]
        self.factors = up_factors(min(strides), len(BLOCKS) - len(skips))
        self.reduce = _convolve(coarsest, REDUCED)
        skip_channels = [*skips, *(0 for _ in self.factors)]
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolve(before + skip, after), _convolve(after, after))
            for (before, after), skip in zip(
                pairwise((REDUCED, *BLOCKS)), skip_channels, strict=True
            )
        )
        self.classify = nn.Conv2d(BLOCKS[-1], classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        coarsest, *skips = [torch.cat([maps[i] for i in group], 1) for group in self.groups]
        features = self.reduce(coarsest)  # (N, 512, h, w)
        for skip, block in zip(skips, self.blocks, strict=False):
            features = block(torch.cat([_resize(features, skip.shape[-2:]), skip], 1))
        for factor, block in zip(self.factors, self.blocks[len(skips) :], strict=True):
            features = block(_enlarge(features, factor))
        return _resize(self.classify(features), size)  # (N, K, H, W)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return 0.5 cross-entropy + 0.5 Dice as in TransUNet: half the loss of other heads.

        The Dice term is `Head.loss`'s; TransUNet's code squares the terms of its denominator.
        """
        return 0.5 * super().loss(logits, target)


def _convolve(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _enlarge(features: Tensor, factor: float) -> Tensor:
    height, width = features.shape[-2:]
    return _resize(features, (round(factor * height), round(factor * width)))


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, tuple(size), mode="bilinear", align_corners=True)
