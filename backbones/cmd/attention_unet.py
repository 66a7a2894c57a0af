"""The Attention U-Net of the study: residual blocks, with self-attention on coarse maps.

The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (Dhariwal and Nichol, arXiv
2105.05233), as an arm of table 1 of arXiv 2605.08276, which prints 132.65 M parameters and no
details. With a base width of 192, multipliers 1, 1, 1, 2, 2, 4, one residual block a level,
residual blocks that change the sides, attention where an image of 256 px has sides of 32 and 16,
and a linear condition of 1024 it has 132.73 M, the nearest form that was found. That count has room
for an embedding that is added, not for one that scales too (that would make 141.30 M).

The paper has one count for images and latents, so one form serves both: the levels with attention
are the same, and latents of 32 x 32 meet it at sides of 4 and 2 (attention at their sides of 32 and
16 would make 130.08 M).

Letters: N images, K channels of x, h and w its sides, C width of a level, w base width, E = 4 w
width of the embedding, L = h w tokens, A attention heads, D width of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diffusion import DiffusionNetwork, Perceptron, checked_width, time_waves

WIDTHS = (1, 1, 1, 2, 2, 4)  # of the levels from 1/1 to 1/32, in base widths
ATTENTION_LEVELS = (3, 4)  # 1/8 and 1/16
HEAD_WIDTH = 64
GROUPS = 32
DECODER_DEPTH = 2  # blocks a level: one for each map of the encoder that it takes in
DECODER_LEVELS = tuple(
    level for level in reversed(range(len(WIDTHS))) for _ in range(DECODER_DEPTH)
)
DEFAULT_BLOCKS = (3, 5, 7, 9, 11)  # the last of each level from 1/16 to 1/1


class Embedding(nn.Module):
    """The time step, and a linear map of the condition added to it."""

    def __init__(self, width: int, cond_dim: int | None) -> None:
        super().__init__()
        self.waves = width
        self.time = Perceptron(width, 4 * width)
        self.feature = None if cond_dim is None else nn.Linear(cond_dim, 4 * width)

    def forward(self, t: Tensor, condition: Tensor | None) -> Tensor:
        e = self.time(time_waves(t, self.waves))  # (N, E)
        if self.feature is None or condition is None:
            return e
        return e + self.feature(condition.to(self.feature.weight.dtype))  # (N, E)


class Residual(nn.Module):
    """Two convolutions around the embedding; `scale` 2 or 0.5 changes the sides in between."""

    def __init__(self, width_in: int, width: int, embedding: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.norm = _norm(width_in)
        self.conv = nn.Conv2d(width_in, width, 3, padding=1)
        self.embedding = nn.Linear(embedding, width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        y = self.conv(self._resized(F.silu(self.norm(x))))  # (N, C, h', w')
        y = y + self.embedding(F.silu(e))[:, :, None, None]  # (N, C, h', w')
        y = self.conv_out(F.silu(self.norm_out(y)))  # (N, C, h', w')
        return self.shortcut(self._resized(x)) + y  # (N, C, h', w')

    def _resized(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return x
        if self.scale < 1:
            return F.avg_pool2d(x, 2)  # (N, C, h / 2, w / 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")  # (N, C, 2 h, 2 w)


class Attention(nn.Module):
    """Self-attention over the pixels of a map, with heads of 64 (one head below 128 channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.norm = _norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, L, C)
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (N, L, 3, A, C / A)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, A, L, C / A)
        y = F.scaled_dot_product_attention(q, k, v)  # (N, A, L, C / A)
        y = self.out(y.transpose(1, 2).flatten(2))  # (N, L, C)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])  # (N, C, h, w)


class Block(nn.Module):
    """A residual block, and attention after it where its level has some."""

    def __init__(self, width_in: int, width: int, embedding: int, attends: bool) -> None:
        super().__init__()
        self.residual = Residual(width_in, width, embedding)
        self.attention = Attention(width) if attends else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.attention(self.residual(x, e))  # (N, C, h, w)


class AttentionUNet(DiffusionNetwork):
    """Predict x from its corrupted form, the time step and the condition.

    The last convolution of every block and of the network starts at zero, so in an untrained
    network the prediction is zero; all else starts as torch does. The blocks that can be tapped are
    the decoder's, numbered 0 to 11 from coarse to fine, two a level.
    """

    def __init__(self, width: int, cond_dim: int | None = None, in_channels: int = 3) -> None:
        """Make a network of base width `width`.

        Args:
            width: w, even. Normalisation is over 32 groups of channels, or as many as divide a
                width that 32 does not: 16 at w = 48.
            cond_dim: D; None builds no condition embedding.
            in_channels: K: 3 for images, 4 for latents.
        """
        super().__init__()
        widths = [width * factor for factor in WIDTHS]
        embedding = 4 * width
        self.channels = tuple(widths[level] for level in DECODER_LEVELS)
        self.strides = tuple(2**level for level in DECODER_LEVELS)
        self.default_blocks = DEFAULT_BLOCKS
        self.multiple = 2 ** (len(WIDTHS) - 1)
        self.in_channels = in_channels
        self.cond_dim = checked_width(cond_dim)
        self.embedding = Embedding(width, cond_dim)
        self.entry = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder, self.downs, self.decoder, self.ups = (nn.ModuleList() for _ in range(4))
        kept = [width]  # widths of the encoder's maps, in the order in which they come to be
        for level, wide in enumerate(widths):
            self.encoder.append(Block(kept[-1], wide, embedding, level in ATTENTION_LEVELS))
            kept.append(wide)
            if level < len(widths) - 1:
                self.downs.append(Residual(wide, wide, embedding, scale=0.5))
                kept.append(wide)
        before = widths[-1]
        self.middle = nn.ModuleList(
            Block(before, before, embedding, attends) for attends in (True, False)
        )
        for level, wide in zip(DECODER_LEVELS, self.channels, strict=True):
            both = before + kept.pop()
            self.decoder.append(Block(both, wide, embedding, level in ATTENTION_LEVELS))
            before = wide
        self.ups.extend(Residual(wide, wide, embedding, scale=2.0) for wide in widths[:0:-1])
        self.exit_norm = _norm(width)
        self.exit = nn.Conv2d(width, in_channels, 3, padding=1)
        self._initialise()
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        (y,) = self.features(x, t, condition, (len(self.decoder) - 1,))  # (N, w, h, w)
        return self.exit(F.silu(self.exit_norm(y)))  # (N, K, h, w)

    def features(
        self, x: Tensor, t: Tensor, condition: Tensor | None, blocks: Sequence[int]
    ) -> list[Tensor]:
        self.check(x, condition)
        e = self.embedding(t, condition)  # (N, E)
        x, kept = self._encode(x, e)
        found: dict[int, Tensor] = {}
        for number in range(max(blocks) + 1):
            x = self.decoder[number](torch.cat([x, kept.pop()], dim=1), e)
            if number in blocks:
                found[number] = x
            last_of_level = number % DECODER_DEPTH == DECODER_DEPTH - 1
            if last_of_level and number < max(blocks):
                x = self.ups[number // DECODER_DEPTH](x, e)  # (N, C, 2 h, 2 w)
        return [found[each] for each in blocks]

    def _encode(self, x: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Give the middle's map (N, 4 w, h / 32, w / 32), and every map above it, finest first."""
        x = self.entry(x.contiguous(memory_format=torch.channels_last))  # (N, w, h, w)
        kept = [x]
        for level, block in enumerate(self.encoder):
            x = block(x, e)
            kept.append(x)
            if level < len(self.downs):
                x = self.downs[level](x, e)  # (N, C, h / 2, w / 2)
                kept.append(x)
        for block in self.middle:
            x = block(x, e)
        return x, kept

    def _initialise(self) -> None:
        """Set what is last in every block and in the network to zero; the rest is torch's own."""
        last = [each.conv_out for each in self.modules() if isinstance(each, Residual)]
        attention = [each.out for each in self.modules() if isinstance(each, Attention)]
        for module in (*last, *attention, self.exit):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, width), width)  # eps 1e-5
