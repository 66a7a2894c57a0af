"""A small ViT-Adapter and a plain ViT of its size, for tests."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bench.backbones._vit_adapter import ViTAdapter

WIDTH, DEPTH, HEADS = 32, 8, 4


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def miniature(drop_path: float = 0.3, grid: int = 4) -> ViTAdapter:
    torch.manual_seed(0)
    return ViTAdapter(WIDTH, DEPTH, HEADS, grid=grid, drop_path=drop_path).eval()


def awake(model: ViTAdapter) -> ViTAdapter:
    """Give every injector a gain, as training would."""
    for inject in model.injectors:
        nn.init.ones_(inject.gain)  # type: ignore[arg-type]
    return model


def timm_vit(**options: Any) -> Any:
    torch.manual_seed(1)
    small: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    return VisionTransformer(img_size=64, num_classes=5, **small | options).eval()
