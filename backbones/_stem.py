"""CTransPath's stem: two strided convolutions where a Swin transformer cuts patches.

Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image
classification", Medical Image Analysis 2022, section 3.2.
"""

from __future__ import annotations

from typing import Any

from timm.layers.patch_embed import PatchEmbed
from torch import nn


def conv_stem(**told: Any) -> PatchEmbed:
    """Make timm's patch embedding with a convolutional stem of stride 4.

    Args:
        told: what timm tells an embedding; `embed_dim` channels come out, (N, H/4, W/4, C).
    """
    embedding = PatchEmbed(**told)
    width = told["embed_dim"]
    embedding.proj = nn.Sequential(  # type: ignore[assignment]
        nn.Conv2d(3, width // 8, 3, stride=2, padding=1, bias=False),  # (N, C/8, H/2, W/2)
        nn.BatchNorm2d(width // 8),
        nn.ReLU(),
        nn.Conv2d(width // 8, width // 4, 3, stride=2, padding=1, bias=False),  # (N, C/4, H/4, W/4)
        nn.BatchNorm2d(width // 4),
        nn.ReLU(),
        nn.Conv2d(width // 4, width, 1),  # (N, C, H/4, W/4)
    )
    return embedding
