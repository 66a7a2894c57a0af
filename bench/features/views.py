"""Convert images to square network inputs, and merge logits back to image size.

`whole` resizes the image to a square, like the CMD paper; `tiles` cuts overlapping squares at
native resolution.

Shapes: P patches of an image, K classes, S side of the square input in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 0.25  # smallest overlap of neighbouring tiles, as a share of their side


def nearest_multiple(px: int, stride: int) -> int:
    """Return the multiple of the stride nearest to `px`, at least one stride."""
    return max(1, round(px / stride)) * stride


@dataclass(frozen=True)
class View:
    """Cut images and targets into square patches of `px` pixels, and merge logits back.

    Attributes:
        kind: "whole" or "tiles".
        px: side of the square; divisible by every stride of the extractor.
    """

    kind: str
    px: int

    def patches(self, height: int, width: int) -> int:
        """Return the number of patches of an image of this size."""
        return 1 if self.kind == "whole" else len(self._corners(height, width))

    def cut_image(self, image: np.ndarray) -> Tensor:
        """Cut (H, W, 3) uint8 RGB into (P, 3, S, S) float32 in [0, 1]."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        return self._cut(pixels)

    def cut_target(self, instances: np.ndarray) -> Tensor:
        """Cut (H, W) instances into (P, S, S) int64 classes: 1 if at least half is foreground."""
        foreground = torch.from_numpy(instances != 0)[None, None].float()
        return (self._cut(foreground)[:, 0] >= 0.5).long()

    def merge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Merge (P, K, S, S) logits into (K, H, W): resized, or blended where tiles overlap."""
        if self.kind == "whole":
            return _resize(logits, size)[0]
        height, width = size
        padded_size = max(height, self.px), max(width, self.px)
        total = logits.new_zeros(logits.shape[1], *padded_size)  # (K, H', W')
        weight = logits.new_zeros(padded_size)  # (H', W')
        # A pixel's weight decreases with its distance from the centre of the tile.
        ramp = torch.minimum(torch.arange(1, self.px + 1), torch.arange(self.px, 0, -1)) / self.px
        window = (ramp[:, None] * ramp[None, :]).to(logits)  # (S, S)
        for patch, (top, left) in zip(logits, self._corners(height, width), strict=True):
            rows, columns = slice(top, top + self.px), slice(left, left + self.px)
            total[:, rows, columns] += patch * window
            weight[rows, columns] += window
        return (total / weight)[:, :height, :width]

    def _cut(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if self.kind == "whole":
            return _resize(pixels, (self.px, self.px))
        padded = _pad(pixels, max(0, self.px - height), max(0, self.px - width))
        corners = self._corners(height, width)
        return torch.stack([padded[0, :, y : y + self.px, x : x + self.px] for y, x in corners])

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(y, x) for y in _starts(height, self.px) for x in _starts(width, self.px)]


def _starts(length: int, px: int) -> list[int]:
    """Return the starts of evenly spaced tiles that overlap by at least OVERLAP of their side."""
    if length <= px:
        return [0]
    count = 1 + int(np.ceil((length - px) / (px * (1 - OVERLAP))))
    return [round(i * (length - px) / (count - 1)) for i in range(count)]


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def _pad(pixels: Tensor, bottom: int, right: int) -> Tensor:
    """Pad by reflection, repeatedly if the padding is larger than the image."""
    while bottom or right:
        down = min(bottom, pixels.shape[-2] - 1) if pixels.shape[-2] > 1 else 0
        across = min(right, pixels.shape[-1] - 1) if pixels.shape[-1] > 1 else 0
        if not (down or across):
            return F.pad(pixels, (0, right, 0, bottom), mode="replicate")
        pixels = F.pad(pixels, (0, across, 0, down), mode="reflect")
        bottom, right = bottom - down, right - across
    return pixels
