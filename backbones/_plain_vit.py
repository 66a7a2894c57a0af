"""Trunk of a vision transformer (arXiv 2010.11929) without class token and final norm.

Parameter names are those of timm, so that weights of DeiT (arXiv 2012.12877) load.

Letters: N images, H and W their sides, T = HW/256 tokens, C channels, M heads, D = C/M.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

PATCH = 16


class PlainViT(nn.Module):
    """Patch and position embedding (`embed`), then `blocks`.

    Positions are learned on a square grid and resized (bicubic) to that of the images. The first,
    for the class token of released weights, is not used.
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, grid: int = 14, drop_path: float = 0.0
    ) -> None:
        """Build it with random weights; `grid` is the side of the position grid in patches."""
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, drop_path=rate) for rate in rates)

    def embed(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to tokens (N, T, C), positions added."""
        patches = self.patch_embed(images)  # (N, C, H/16, W/16)
        positions = resample_abs_pos_embed(self.pos_embed, list(patches.shape[-2:]))
        return patches.flatten(2).transpose(1, 2) + positions[:, 1:]  # (N, T, C)

    def resize_grid(self, positions: Tensor | None) -> None:
        """Reallocate `pos_embed` for the positions (1, 1 + G^2, C) of a checkpoint."""
        if positions is None or math.isqrt(positions.shape[1] - 1) ** 2 != positions.shape[1] - 1:
            return  # strict loading reports the error
        self.pos_embed = nn.Parameter(self.pos_embed.new_zeros(positions.shape))


class Block(nn.Module):
    """Pre-norm attention and MLP, both with layer scale."""

    def __init__(self, width: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU()}
        self.mlp = nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(4 * width, width)}))
        self.ls2 = nn.Parameter(torch.ones(width))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        tokens = tokens + self.drop_path(self.ls1 * self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.ls2 * self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (N, T, 3, M, D)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (N, M, T, D) each
        y = F.scaled_dot_product_attention(query, key, value)  # (N, M, T, D)
        return self.proj(y.transpose(1, 2).flatten(2))  # (N, T, C)
