"""Convolutional decoder (CMD, arXiv:2605.08276, Figure B2 B): reduce to 512 channels, four blocks.

A single map is up-sampled step by step, before each block. Several maps are resized to the output
size and concatenated first; nothing is up-sampled after that.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, K classes, H x W the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head

from ._linear import resize_matrix

REDUCED = 512
BLOCKS = (256, 128, 64, 16)
GAIN = 3  # ratio of multiply-adds above which taps at the map's resolution are faster


def up_factors(stride: float, blocks: int = len(BLOCKS)) -> list[float]:
    """Split a stride into one factor per block: at most 2 each, the rest in the last."""
    factors = []
    for remaining in reversed(range(blocks)):
        factors.append(min(2.0, stride) if remaining else stride)
        stride /= factors[-1]
    return factors


class DecoderHead(Head):
    """Conv3x3-BN-ReLU to 512 channels, four blocks of two Conv3x3-BN-ReLU, Conv3x3 to K."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.factors = up_factors(strides[0] if len(strides) == 1 else 1)
        self.reduce = nn.Conv2d(sum(channels), REDUCED, 3, padding=1, bias=False)
        self.activate = nn.Sequential(nn.BatchNorm2d(REDUCED), nn.ReLU(inplace=True))
        widths = (REDUCED, *BLOCKS)
        self.blocks = nn.ModuleList(
            nn.Sequential(*_convolve(before, after), *_convolve(after, after))
            for before, after in pairwise(widths)
        )
        self.classify = nn.Conv2d(BLOCKS[-1], classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        features = self.reduce(maps[0]) if len(maps) == 1 else self._fuse(maps, size)
        features = self.activate(features)  # (N, 512, h, w)
        for factor, block in zip(self.factors, self.blocks, strict=True):
            features = block(_enlarge(features, factor))
        return _resize(self.classify(features), size)  # (N, K, H, W)

    def _fuse(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Reduce map by map: the concatenation takes 1 GiB per image for CMD-L at 256 x 256."""
        weights = self.reduce.weight.split(self.channels, dim=1)  # [(512, C_i, 3, 3), ...]
        fused = convolve_enlarged(maps[0], weights[0], size)
        for features, weight in zip(maps[1:], weights[1:], strict=True):
            fused = fused + convolve_enlarged(features, weight, size)
        return fused  # (N, 512, H, W)


def convolve_enlarged(features: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) to `size`, then convolve with (D, C, 3, 3): (N, D, *size).

    Both are linear, so the nine taps are computed at the map's resolution, then resized, shifted
    and summed by one matrix product per axis. For a coarse or wide map this needs far fewer
    multiply-adds, and the resized map is never built.
    """
    if not _saves_enough(features.shape, size):
        return F.conv2d(_resize(features, size), weight, padding=1)
    count, _, height, width = features.shape
    taps = torch.einsum("dcyx,nchw->ndyhxw", weight, features)  # (N, D, 3, h, 3, w)
    taps = taps.reshape(count, -1, 3 * height, 3 * width)
    down, across = _resize_taps(height, size[0], taps), _resize_taps(width, size[1], taps)
    return down @ (taps @ across.T)  # (N, D, H, W)


def _saves_enough(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Return whether taps at the map's resolution need `GAIN` times fewer multiply-adds."""
    _, channels, height, width = shape
    resize_first = 9 * channels * size[0] * size[1]
    taps = 9 * channels * height * width
    resizing = 9 * height * width * size[1] + 3 * height * size[0] * size[1]
    return resize_first > GAIN * (taps + resizing)


def _resize_taps(before: int, after: int, like: Tensor) -> Tensor:
    """Return the matrix (after, 3 before) that resizes, shifts and sums three taps of a line."""
    resize = resize_matrix(
        before, after, torch.promote_types(like.dtype, torch.float32), like.device
    )
    edge = torch.zeros_like(resize[:1])
    taps = [torch.cat([edge, resize[:-1]]), resize, torch.cat([resize[1:], edge])]
    return torch.cat(taps, dim=1).to(like.dtype)


def _convolve(before: int, after: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _enlarge(features: Tensor, factor: float) -> Tensor:
    height, width = features.shape[-2:]
    return _resize(features, (round(factor * height), round(factor * width)))


def _resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size, mode="bilinear")
