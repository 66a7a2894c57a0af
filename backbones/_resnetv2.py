"""The CNN of TransUNet: a ResNet-50 with standardised weights and group normalisation.

BiT (Kolesnikov et al., ECCV 2020, arXiv:1912.11370) replaces batch by group normalisation and
standardises the weights of every convolution (Qiao et al., arXiv:1903.10520). TransUNet
(arXiv:2102.04306) uses the variant of the hybrid ViT (arXiv:2010.11929): normalisation follows
every convolution, the third stage has nine units, and there is no fourth. TransUNet's code
normalises the shortcuts by channel; here, as in the hybrid ViT, by group.

Letters: N images, H and W their sides, C channels of a block's input, C' of its output, h and w the
sides of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
EPS_OF_WEIGHTS = 1e-5
EPS_OF_MAPS = 1e-6


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose filters are standardised in every forward pass."""

    def __init__(self, before: int, after: int, side: int, *, stride: int = 1) -> None:
        super().__init__(before, after, side, stride, padding=side // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h / stride, w / stride), rounded up."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * (variance + EPS_OF_WEIGHTS).rsqrt()  # (C', C, k, k)
        return F.conv2d(input, weight, stride=self.stride, padding=self.padding)


class Bottleneck(nn.Module):
    """Conv1x1, Conv3x3 and Conv1x1, all normalised, with a shortcut; four times narrower inside.

    The 3x3 convolution has the stride. If shapes differ, the shortcut is a Conv1x1.
    """

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        inner = after // 4
        self.shortcut = nn.Sequential()
        if before != after or stride != 1:
            self.shortcut.append(StandardisedConv(before, after, 1, stride=stride))
            self.shortcut.append(_norm(after))
        self.residual = nn.Sequential(
            *(StandardisedConv(before, inner, 1), _norm(inner), nn.ReLU(inplace=True)),
            *(StandardisedConv(inner, inner, 3, stride=stride), _norm(inner)),
            *(nn.ReLU(inplace=True), StandardisedConv(inner, after, 1), _norm(after)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h / stride, w / stride), rounded up."""
        return (self.residual(features) + self.shortcut(features)).relu()


class ResNetV2(nn.Module):
    """A root at stride 2 and stages at strides 4, 8 and 16; 11,894,848 parameters by default."""

    strides = (2, 4, 8, 16)

    def __init__(self, width: int = 64, units: Sequence[int] = (3, 4, 9)) -> None:
        """Build the network.

        Args:
            width: channels of the root, a multiple of 32; the stages have 4, 8 and 16 times it.
            units: blocks per stage.
        """
        super().__init__()
        self.channels = (width, 4 * width, 8 * width, 16 * width)
        self.root = nn.Sequential(
            StandardisedConv(3, width, 7, stride=2), _norm(width), nn.ReLU(inplace=True)
        )
        # TransUNet pools without padding and then pads with zeros below and to the right.
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Bottleneck(before, after, stride=stride),
                *(Bottleneck(after, after, stride=1) for _ in range(count - 1)),
            )
            for before, after, stride, count in zip(
                self.channels, self.channels[1:], (1, 2, 2), units, strict=False
            )
        )

    def forward(self, images: Tensor, *, levels: int = 4) -> list[Tensor]:
        """Map normalised (N, 3, H, W) to the finest `levels` maps; sides are rounded up."""
        maps = [self.root(images)]  # (N, width, H/2, W/2)
        features = self.pool(maps[0])  # (N, width, H/4, W/4)
        for stage in self.stages[: levels - 1]:
            features = stage(features)  # (N, C, H/4, W/4), then / 8, then / 16
            maps.append(features)
        return maps


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=EPS_OF_MAPS)
