"""The condition of a network: a frozen backbone's embedding of the whole, unmasked image.

Pretraining and feature extraction share this module, so that they compute the same condition.
Shapes: N images, H and W their sides in pixels, D width of the condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.features.views import nearest_multiple
from bench.models.load import open_backbone


class Conditioner(nn.Module):
    """A frozen backbone that embeds whole images.

    Attributes:
        width: D, size of an embedding.
        facts: the backbone's name and the identity of its weights.
    """

    def __init__(self, name: str) -> None:
        """Open the backbone `NAME`, `NAME@FILE` or `NAME@random:SEED`.

        Raises:
            BenchError: the backbone is unknown, or its weights cannot be loaded.
        """
        super().__init__()
        self.facts: dict[str, object] = {"condition": name.partition("@")[0]}
        opened = open_backbone(name)
        self.facts["condition_weights"] = opened.identity
        self.extractor = opened.extractor.eval().requires_grad_(False)
        self.multiple = math.lcm(*self.extractor.strides)
        self.side = opened.backbone.input_px
        smallest = self.side or self.multiple
        device = torch.empty(0).device
        self.width = self(torch.zeros(1, 3, smallest, smallest, device=device)).shape[1]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in [0, 1] to (N, D)."""
        size = [self.side or nearest_multiple(side, self.multiple) for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)  # (N, 3, h, w)
        return self.extractor.embed(images)  # (N, D)
