"""Top-down fusion (CMD, arXiv:2605.08276, Figure B2 A) after the visual encoder of Li et al.

Maps of similar resolution form a group. From the coarsest group to the finest, the fused features
are up-sampled, concatenated with the next group and merged by a Mix-Conv (Li et al., ICCV 2023,
arXiv:2301.05221). The paper's figure leaves details open: this form matches its parameter count.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, K classes, H x W the output; h x w
is the resolution of the current group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head

from ._linear import ProjectMaps

WIDTH = 256
TIME = 50  # time step at which CMD's features are extracted
TIME_WIDTH = 128
MAX_PERIOD = 10_000


def group_by_resolution(strides: Sequence[int]) -> list[list[int]]:
    """Return the indices of the maps of each group, coarsest group first.

    Maps of strides 1 and 2 share a group.
    """
    levels = [max(stride, 2) for stride in strides]
    return [
        [i for i, level in enumerate(levels) if level == group_level]
        for group_level in sorted(set(levels), reverse=True)
    ]


def embed_time(step: int) -> Tensor:
    """Return the sinusoidal embedding of a time step: 64 cosines, then 64 sines, (128,)."""
    half = TIME_WIDTH // 2
    angles = step * MAX_PERIOD ** (-torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([angles.cos(), angles.sin()])


class LightHead(Head):
    """One projection per group, one Mix-Conv per pair of adjacent groups, Conv1x1 256 -> K."""

    time: Tensor

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.groups = group_by_resolution(strides)
        self.project = nn.ModuleList(
            ProjectMaps([channels[i] for i in group], WIDTH) for group in self.groups
        )
        self.mix = nn.ModuleList(MixConv() for _ in self.groups[1:])
        self.classify = nn.Conv2d(WIDTH, classes, 1)
        self.register_buffer("time", embed_time(TIME), persistent=False)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        fused, *finer = self._project(maps)  # (N, 256, h, w) each, coarsest first
        for mix, features in zip(self.mix, finer, strict=True):
            fused = F.interpolate(fused, features.shape[-2:], mode="bilinear")
            fused = mix(torch.cat([fused, features], 1), self.time)  # (N, 256, h, w)
        return F.interpolate(self.classify(fused), size, mode="bilinear")  # (N, K, H, W)

    def _project(self, maps: Sequence[Tensor]) -> list[Tensor]:
        projected = []
        for project, group in zip(self.project, self.groups, strict=True):
            size = max(maps[i].shape[-2:] for i in group)
            projected.append(project([maps[i] for i in group], size))
        return projected


class MixConv(nn.Module):
    """Two 3x3 convolutions with conditional batch normalisation around a 1x1 shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.first_norm = ConditionalNorm()
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.second_norm = ConditionalNorm()
        self.shortcut = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Map (N, 512, h, w) and a time embedding (128,) to (N, 256, h, w)."""
        mixed = self.first_norm(self.first(features), time).relu()  # (N, 256, h, w)
        mixed = self.second_norm(self.second(mixed), time)  # (N, 256, h, w)
        return (mixed + self.shortcut(features)).relu()  # (N, 256, h, w)


class ConditionalNorm(nn.Module):
    """Batch normalisation whose gain and bias are linear in the time embedding.

    The gain is 1 + Linear and both layers start at zero, so that training starts from plain batch
    normalisation. With a gain of Linear alone, random channels would start near zero or negated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH, affine=False)
        self.gain = nn.Linear(TIME_WIDTH, WIDTH, bias=False)
        self.bias = nn.Linear(TIME_WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Normalise (N, 256, h, w), conditioned on a time embedding (128,)."""
        gain = 1 + self.gain(time).view(1, -1, 1, 1)  # (1, 256, 1, 1)
        bias = self.bias(time).view(1, -1, 1, 1)  # (1, 256, 1, 1)
        return gain * self.norm(features) + bias  # (N, 256, h, w)
