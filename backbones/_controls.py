"""Extractors without parameters: the RGB image itself, and a constant prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.api.nn import FeatureExtractor


class RGBExtractor(FeatureExtractor):
    """Return the image, scaled to [-1, 1], as the only map."""

    channels = (3,)
    strides = (1,)
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.normalise(images)]  # [(N, 3, H, W)]


class ConstantExtractor(FeatureExtractor):
    """Return logits that are 1 for one class and 0 for the other, whatever the image."""

    channels = (2,)
    strides = (1,)
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, predicted: int) -> None:
        """Set the predicted class: 0 for background, 1 for nucleus."""
        super().__init__()
        self.predicted = predicted

    def forward(self, images: Tensor) -> list[Tensor]:
        zeros = torch.zeros_like(images[:, 0])  # (N, H, W)
        logits = [zeros, zeros]
        logits[self.predicted] = zeros + 1
        return [torch.stack(logits, dim=1)]  # [(N, 2, H, W)]
