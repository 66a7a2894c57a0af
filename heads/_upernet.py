"""UperNet (arXiv:1807.10221): a feature pyramid with pyramid pooling of the coarsest map.

The coarsest map passes through the pyramid pooling module of PSPNet (arXiv:1612.01105), the others
through a feature pyramid (arXiv:1612.03144). All levels are resized to the finest resolution,
concatenated and classified. A single map is pooled only. An auxiliary head on the second-coarsest
map is used in training.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, finest first, K classes, H x W the
output; C channels and h x w pixels of the current map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head

WIDTH = 512
SCALES = (1, 2, 3, 6)  # side of the pooled maps
AUXILIARY_WIDTH = 256
AUXILIARY_WEIGHT = 0.4
DROPOUT = 0.1


class UperHead(Head):
    """UperNet for any number of maps, finest first, with an auxiliary head for training."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.auxiliary_map = max(0, len(channels) - 2)
        self.pool = PyramidPooling(coarsest)
        self.lateral = nn.ModuleList(_convolve(width, WIDTH, 1) for width in finer)
        self.smooth = nn.ModuleList(_convolve(WIDTH, WIDTH, 3) for _ in finer)
        self.fuse = _convolve(WIDTH * len(channels), WIDTH, 3)
        self.classify = _classify(WIDTH, classes)
        self.auxiliary = nn.Sequential(
            _convolve(channels[self.auxiliary_map], AUXILIARY_WIDTH, 3),
            _classify(AUXILIARY_WIDTH, classes),
        )

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        above = self.pool(maps[-1])  # (N, 512, h_i, w_i)
        levels = [above]
        for i in reversed(range(len(maps) - 1)):
            above = self.lateral[i](maps[i]) + _resize(above, maps[i])  # (N, 512, h_i, w_i)
            levels.append(self.smooth[i](above))
        stack = torch.cat([_resize(level, maps[0]) for level in reversed(levels)], dim=1)
        logits = self.classify(self.fuse(stack))  # (N, K, h_0, w_0)
        return F.interpolate(logits, size, mode="bilinear")  # (N, K, H, W)

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the loss plus 0.4 times the loss of the auxiliary head."""
        coarse = self.auxiliary(maps[self.auxiliary_map])  # (N, K, h_i, w_i)
        logits = F.interpolate(coarse.float(), target.shape[-2:], mode="bilinear")  # (N, K, H, W)
        main = super().training_loss(maps, target)
        return main + AUXILIARY_WEIGHT * self.loss(logits, target)


class PyramidPooling(nn.Module):
    """Concatenate a map with its averages over 1, 4, 9 and 36 cells; Conv3x3 to 512 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), _convolve(channels, WIDTH, 1))
            for cells in SCALES
        )
        self.blend = _convolve(channels + WIDTH * len(SCALES), WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, 512, h, w)."""
        averages = [_resize(scale(features), features) for scale in self.scales]
        return self.blend(torch.cat([features, *averages], dim=1))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that accepts one value per channel, as after pooling a single image.

    The deviation of one value is undefined, so it is normalised with the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, h, w)."""
        if not self.training or input.numel() > input.shape[1]:
            return super().forward(input)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)


def _convolve(before: int, after: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, BatchNorm(after), nn.ReLU(inplace=True))


def _classify(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(width, classes, 1))


def _resize(features: Tensor, like: Tensor) -> Tensor:
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, like.shape[-2:], mode="bilinear")
