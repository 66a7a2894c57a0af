"""A trainable CNN beside a frozen backbone: TransUNet with the backbone in the place of its ViT.

Letters: N images, H and W their sides in pixels, C and s channels and stride of the backbone's last
map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.interface import FeatureExtractor

from ._frozen import OnFrozen
from ._resnetv2 import ResNetV2

SKIPS = 3


class CNNAdapter(OnFrozen):
    """Maps of a ResNet at strides 2, 4 and 8, then the last map of a frozen extractor.

    The third stage of the ResNet is built and counted, since the 22,821,282 trainable parameters of
    "TransUNet 23/704" (arXiv:2605.08276, Table 5) hold it, but no map needs it: it is never run and
    gets no gradient.

    Sides need fit the backbone alone: maps of the ResNet are cut to H // 2, H // 4 and H // 8.
    """

    def __init__(
        self, inner: FeatureExtractor, *, width: int = 64, units: Sequence[int] = (3, 4, 9)
    ) -> None:
        """Build the ResNet with random weights; `width` and `units` are explained in `ResNetV2`.

        Raises:
            BenchError: the last map of the extractor is finer than stride 8.
        """
        super().__init__(inner)
        self.cnn = ResNetV2(width, units)
        self.channels = (*self.cnn.channels[:SKIPS], inner.channels[-1])
        self.strides = (*self.cnn.strides[:SKIPS], inner.strides[-1])
        if self.strides[-1] < self.strides[-2]:
            raise BenchError(
                f"a CNN adapter gives maps at strides 2, 4 and 8 and needs a backbone whose last "
                f"map is as coarse; this one's has stride {self.strides[-1]}."
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        with torch.no_grad():
            last = self.inner(images)[-1]  # (N, C, H/s, W/s)
        maps = self.cnn(self.normalise(images), levels=SKIPS)  # (N, C_i, H/2, W/2), / 4, / 8
        cut = zip(maps, self.strides, strict=False)
        return [*(each[..., : height // s, : width // s] for each, s in cut), last]
