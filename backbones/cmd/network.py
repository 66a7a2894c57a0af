"""The CMD network: a six-level ConvNeXt U-Net conditioned on time step and image.

Section 3.2, appendix B.2 and table B1 of "Masked-Diffusion Convolutional Foundation Models"
(arXiv 2605.08276), in the six-level form of FCDM (arXiv 2603.09408). The input is RGB in [-1, 1],
so a patch masked to zero is mid grey, or the latents of a VAE (table 2).

Letters: N images, K their channels, H and W their sides, w base width, C width of a level, D width
of the condition. Tensors are (N, C, H, W) in channels-last memory format, so that the pointwise
layers are `nn.Linear` on an (N, H, W, C) view, without a copy and faster than 1x1 convolutions on a
CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diffusion import Condition, DiffusionNetwork, checked_width, initialise_linearly

WIDTHS = (1, 1, 1, 2, 2, 4)  # of the levels from 1/1 to 1/32, in base widths
ENCODER_DEPTHS = (1, 2, 3, 2, 2)  # levels 1/1 to 1/16
BOTTLENECK_DEPTH = 6  # level 1/32
DECODER_DEPTHS = (2, 2, 3, 2, 1)  # levels 1/16 to 1/1
DECODER_LEVELS = tuple(4 - i for i, depth in enumerate(DECODER_DEPTHS) for _ in range(depth))
FIRST_OF_LEVEL = tuple(DECODER_LEVELS.index(level) for level in (4, 3, 2, 1, 0))  # decoder blocks
DEFAULT_BLOCKS = (1, 3, 5, 6, 8, 9)  # appendix B.3
EPS = 1e-6


class ResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2 (arXiv 2301.00808)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision would overflow
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=wide)  # (N, 1, 1, C)
        response = (energy / (energy.mean(dim=-1, keepdim=True) + EPS)).to(x.dtype)
        return x + self.gamma * (x * response) + self.beta  # (N, H, W, C)


class Block(nn.Module):
    """A ConvNeXt V2 block with adaLN-Zero modulation (figure 1 C, equation 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.modulation = nn.Linear(width, 3 * width)
        self.expand = nn.Linear(width, 3 * width)
        self.response = ResponseNorm(3 * width)
        self.contract = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = _modulation(self.modulation, c, 3)  # each (N, 1, 1, C)
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        y = F.layer_norm(y, y.shape[-1:], eps=EPS) * (1 + scale) + shift  # (N, H, W, C)
        y = self.response(F.gelu(self.expand(y)))  # (N, H, W, 3 C)
        y = self.contract(y) * gate  # (N, H, W, C)
        return x + y.permute(0, 3, 1, 2)  # (N, C, H, W)


class Down(nn.Module):
    """Halve the sides by pixel unshuffle."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width_out // 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2)  # (N, C', H / 2, W / 2)


class Up(nn.Module):
    """Double the sides by pixel shuffle and merge the encoder's map of that size."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width_out, 3, padding=1, bias=False)
        self.merge = nn.Linear(2 * width_out, width_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.conv(x), 2)  # (N, C', 2 H, 2 W)
        both = torch.cat([x, skip], dim=1).permute(0, 2, 3, 1)  # (N, 2 H, 2 W, 2 C')
        return self.merge(both).permute(0, 3, 1, 2)  # (N, C', 2 H, 2 W)


class Tail(nn.Module):
    """Turn the last decoder map into an image."""

    def __init__(self, width: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * width)
        self.image = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = _modulation(self.modulation, c, 2)  # each (N, 1, 1, w)
        y = self.conv(x).permute(0, 2, 3, 1)  # (N, H, W, w)
        y = F.layer_norm(y, y.shape[-1:], eps=EPS) * (1 + scale) + shift  # (N, H, W, w)
        return self.image(y.permute(0, 3, 1, 2))  # (N, K, H, W)


class CMD(DiffusionNetwork):
    """Predict the clean image from the masked one, the time step and the clean image's condition.

    Every block's gate and the tail start at zero (adaLN-Zero), so in an untrained network each
    block is the identity and the prediction is zero: the features come from stem, downs and ups.
    `features` numbers the decoder's blocks 0 to 9, from coarse to fine.
    """

    def __init__(self, width: int, cond_dim: int | None = None, in_channels: int = 3) -> None:
        """Build a network of base width `width`.

        Args:
            width: 64, 128, 256 or 512 for cmd-tiny, -s, -b and -l; a multiple of 4.
            cond_dim: width of the condition; None builds no condition embedding.
            in_channels: K: 3 for images, 4 for latents.
        """
        super().__init__()
        widths = [width * factor for factor in WIDTHS]
        self.channels = tuple(widths[level] for level in DECODER_LEVELS)
        self.strides = tuple(2**level for level in DECODER_LEVELS)
        self.default_blocks = DEFAULT_BLOCKS
        self.multiple = 2 ** len(ENCODER_DEPTHS)
        self.in_channels = in_channels
        self.cond_dim = checked_width(cond_dim)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conditions = nn.ModuleDict({str(c): Condition(c, cond_dim) for c in sorted({*widths})})
        steps = list(pairwise(widths))
        self.encoder = _blocks(widths, ENCODER_DEPTHS)
        self.downs = nn.ModuleList(Down(fine, coarse) for fine, coarse in steps)
        self.bottleneck = _blocks(widths[-1:], (BOTTLENECK_DEPTH,))
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(steps))
        self.decoder = _blocks(widths[-2::-1], DECODER_DEPTHS)
        self.tail = Tail(width, in_channels)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # 4.5 times faster than the default on a CPU

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check(x, condition)
        c = self._conditions(t, condition)
        maps = self._decode(x, c, (len(DECODER_LEVELS) - 1,))
        return self.tail(maps[0], c[maps[0].shape[1]])  # (N, K, H, W)

    def features(
        self, x: Tensor, t: Tensor, condition: Tensor | None, blocks: Sequence[int]
    ) -> list[Tensor]:
        self.check(x, condition)
        return self._decode(x, self._conditions(t, condition), blocks)

    def _conditions(self, t: Tensor, condition: Tensor | None) -> dict[int, Tensor]:
        """Return c for every width: {C: (N, C)}."""
        return {int(width): embed(t, condition) for width, embed in self.conditions.items()}

    def _decode(self, images: Tensor, c: dict[int, Tensor], blocks: Sequence[int]) -> list[Tensor]:
        x, skips = self._encode(images, c)
        outputs: dict[int, Tensor] = {}
        for number in range(max(blocks) + 1):
            if number in FIRST_OF_LEVEL:
                x = self.ups[FIRST_OF_LEVEL.index(number)](x, skips.pop())  # (N, C, 2 H, 2 W)
            x = self.decoder[number](x, c[x.shape[1]])
            if number in blocks:
                outputs[number] = x
        return [outputs[block] for block in blocks]

    def _encode(self, images: Tensor, c: dict[int, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the bottleneck's map (N, 4 w, H / 32, W / 32) and those of levels 1/1 to 1/16."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))  # (N, w, H, W)
        skips = []
        first = 0
        for depth, down in zip(ENCODER_DEPTHS, self.downs, strict=True):
            for block in self.encoder[first : first + depth]:
                x = block(x, c[x.shape[1]])
            first += depth
            skips.append(x)
            x = down(x)  # (N, C', H / 2, W / 2)
        for block in self.bottleneck:
            x = block(x, c[x.shape[1]])
        return x, skips

    def _initialise(self) -> None:
        initialise_linearly(self)
        for module in self.modules():
            if isinstance(module, Block | Tail):
                nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(self.tail.image.weight)


def _blocks(widths: Sequence[int], depths: Sequence[int]) -> nn.ModuleList:
    """Return the blocks of successive levels in one list."""
    return nn.ModuleList(
        Block(width) for width, depth in zip(widths, depths, strict=False) for _ in range(depth)
    )


def _modulation(linear: nn.Linear, c: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Split Linear(SiLU(c)) into `parts` tensors (N, 1, 1, C)."""
    return linear(F.silu(c))[:, None, None, :].chunk(parts, dim=-1)
