"""TransUNet's encoder (Chen et al., arXiv:2102.04306): a ResNet, then a ViT over its last map.

The head `decoder-cup` is the decoder of the network.

Letters: N images, H and W their sides in pixels, L = H/16 W/16 tokens of D channels, A heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor
from bench.errors import BenchError

from ._resnetv2 import ResNetV2

PATCH_PX = 16
DROPOUT = 0.1


@dataclass(frozen=True)
class TransUNetSize:
    """Size of the network: `width` and `units` of the ResNet, the other fields of the ViT."""

    width: int = 64
    units: Sequence[int] = (3, 4, 9)
    dim: int = 768
    depth: int = 12
    heads: int = 12


R50_VIT_B = TransUNetSize()


class TransUNetExtractor(FeatureExtractor):
    """Maps of the root and the first two stages of the ResNet, and of the ViT on the third.

    There is no class token. All parameters train. As in TransUNet, dropout follows the position
    embeddings and both layers of every MLP; attention has none.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, input_px: int = 224, size: TransUNetSize = R50_VIT_B) -> None:
        """Build the network with random weights.

        Args:
            input_px: side of the square input that position embeddings are learned for; for other
                sides they are resized (bicubic, antialiased).
            size: of the network.

        Raises:
            BenchError: the side is not a multiple of 16.
        """
        super().__init__()
        if input_px < PATCH_PX or input_px % PATCH_PX:
            raise BenchError(
                f"TransUNet needs an input side that is a multiple of {PATCH_PX}, got {input_px}."
            )
        self.cnn = ResNetV2(size.width, size.units)
        self.channels = (*self.cnn.channels[:-1], size.dim)
        self.strides = self.cnn.strides
        self.to_tokens = nn.Conv2d(self.cnn.channels[-1], size.dim, 1)
        self.positions = nn.Parameter(torch.zeros(1, (input_px // PATCH_PX) ** 2, size.dim))
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block(size.dim, size.heads) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(size.dim, eps=1e-6)
        self._initialise()

    def forward(self, images: Tensor) -> list[Tensor]:
        *skips, last = self.cnn(self.normalise(images))  # (N, C_i, H/2, W/2), / 4, / 8 and / 16
        grid = last.shape[-2:]
        tokens = self.to_tokens(last).flatten(2).transpose(1, 2)  # (N, L, D)
        tokens = self.dropout(tokens + self._positions(*grid))  # (N, L, D)
        tokens = self.norm(self.blocks(tokens))  # (N, L, D)
        return [*skips, tokens.transpose(1, 2).unflatten(2, grid)]  # the last: (N, D, H/16, W/16)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings of a grid: (1, L, D)."""
        return resample_abs_pos_embed(self.positions, [rows, columns], num_prefix_tokens=0)

    def _initialise(self) -> None:
        """Initialise the ViT by truncated N(0, 0.02), the convolution by He, biases by zero."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.kaiming_normal_(self.to_tokens.weight)
        for module in (self.to_tokens, *self.blocks.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.Conv2d):
                assert module.bias is not None
                nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Pre-norm attention and MLP of a ViT (arXiv:2010.11929)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            *(nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(4 * dim, dim), nn.Dropout(DROPOUT)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, L, D) to (N, L, D)."""
        tokens = tokens + self._attend(self.first_norm(tokens))
        return tokens + self.mlp(tokens)

    def _attend(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (N, L, 3, A, D/A)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (N, A, L, D/A) each
        y = F.scaled_dot_product_attention(query, key, value)  # (N, A, L, D/A)
        return self.project(y.transpose(1, 2).flatten(2))  # (N, L, D)
