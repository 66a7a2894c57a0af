"""Attention U-Net: residual blocks, with self-attention on coarse maps.

The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (Dhariwal and Nichol, arXiv
2105.05233), for table 1 of arXiv 2605.08276, which reports 132.65 M parameters and no details. The
closest configuration known has 132.73 M: base width 192, multipliers 1, 1, 1, 2, 2, 4, one residual
block per level, residual blocks for resampling, attention at strides 8 and 16, and a linear
embedding of a condition of width 1024. The embedding shifts the features; one that also scales them
would make 141.30 M.

The paper reports one count for images and latents, so attention is at the same levels in both:
latents of 32 x 32 have sides of 4 and 2 there (attention at 32 and 16 would make 130.08 M).

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
DECODER_DEPTH = 2  # blocks per level, one for each skip connection
DECODER_LEVELS = tuple(
    level for level in reversed(range(len(WIDTHS))) for _ in range(DECODER_DEPTH)
)
DEFAULT_BLOCKS = (3, 5, 7, 9, 11)  # the last of each level from 1/16 to 1/1


class Embedding(nn.Module):
    """Embed the time step, and add a linear map of the condition."""

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
    """Two convolutions, the embedding added between them; `scale` 2 or 0.5 resamples the map."""

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
    """Self-attention over the pixels of a map, with heads of width 64 (at least one head)."""

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
    """A residual block, optionally followed by attention."""

    def __init__(self, width_in: int, width: int, embedding: int, attends: bool) -> None:
        super().__init__()
        self.residual = Residual(width_in, width, embedding)
        self.attention = Attention(width) if attends else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.attention(self.residual(x, e))  # (N, C, h, w)


class AttentionUNet(DiffusionNetwork):
    """Predict x from its corrupted form, the time step and the condition.

    The last layer of every block and of the network starts at zero, so in an untrained network the
    prediction is zero; other layers have PyTorch's default initialisation. `features` numbers the
    decoder's blocks 0 to 11 from coarse to fine, two per level.
    """

    def __init__(self, width: int, cond_dim: int | None = None, in_channels: int = 3) -> None:
        """Build a network of base width `width`.

        Args:
            width: w, even. Normalisation has gcd(32, C) groups of channels.
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
        skips = [width]  # widths of the encoder's maps, from fine to coarse
        for level, wide in enumerate(widths):
            self.encoder.append(Block(skips[-1], wide, embedding, level in ATTENTION_LEVELS))
            skips.append(wide)
            if level < len(widths) - 1:
                self.downs.append(Residual(wide, wide, embedding, scale=0.5))
                skips.append(wide)
        before = widths[-1]
        self.middle = nn.ModuleList(
            Block(before, before, embedding, attends) for attends in (True, False)
        )
        for level, wide in zip(DECODER_LEVELS, self.channels, strict=True):
            joined = before + skips.pop()
            self.decoder.append(Block(joined, wide, embedding, level in ATTENTION_LEVELS))
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
        x, skips = self._encode(x, e)
        outputs: dict[int, Tensor] = {}
        for number in range(max(blocks) + 1):
            x = self.decoder[number](torch.cat([x, skips.pop()], dim=1), e)
            if number in blocks:
                outputs[number] = x
            last_of_level = number % DECODER_DEPTH == DECODER_DEPTH - 1
            if last_of_level and number < max(blocks):
                x = self.ups[number // DECODER_DEPTH](x, e)  # (N, C, 2 h, 2 w)
        return [outputs[block] for block in blocks]

    def _encode(self, x: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the middle's map (N, 4 w, h / 32, w / 32) and the skips, finest first."""
        x = self.entry(x.contiguous(memory_format=torch.channels_last))  # (N, w, h, w)
        skips = [x]
        for level, block in enumerate(self.encoder):
            x = block(x, e)
            skips.append(x)
            if level < len(self.downs):
                x = self.downs[level](x, e)  # (N, C, h / 2, w / 2)
                skips.append(x)
        for block in self.middle:
            x = block(x, e)
        return x, skips

    def _initialise(self) -> None:
        """Set the last layer of every block and of the network to zero."""
        residual = [block.conv_out for block in self.modules() if isinstance(block, Residual)]
        attention = [block.out for block in self.modules() if isinstance(block, Attention)]
        for module in (*residual, *attention, self.exit):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, width), width)  # eps 1e-5
