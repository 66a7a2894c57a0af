"""The image itself as features: what a head can do with colour alone."""

from __future__ import annotations

from torch import Tensor

from bench.interface import FeatureExtractor


class RGBExtractor(FeatureExtractor):
    """Give the image, shifted and scaled to [-1, 1], as its only map. There are no parameters."""

    channels = (3,)
    strides = (1,)
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.normalise(images)]  # [(N, 3, H, W)]
