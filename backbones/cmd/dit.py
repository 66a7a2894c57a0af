"""DiT: a transformer over patches, conditioned on time step and image by adaLN-Zero.

"Scalable Diffusion Models with Transformers" (Peebles and Xie, arXiv 2212.09748), sections 3.2 and
4, for table 1 of arXiv 2605.08276: an image embedding replaces the class embedding, and there is no
learned variance. Patches have sides of 2 latents or 16 pixels, so that an image has the same grid
of tokens in both spaces.

Letters: N images, K channels of x, h and w its sides, p side of a patch, L = h w / p^2 tokens, C
width, A attention heads, D width of the condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diffusion import Condition, DiffusionNetwork, checked_width, initialise_linearly

HEAD_WIDTH = 64
MLP_RATIO = 4
EPS = 1e-6
PATCHES = {3: 16, 4: 2}  # K: p
TAPPED = 4  # evenly spaced blocks whose outputs are the features by default


def positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Return the fixed position embedding of a grid: (rows * columns, width) float32.

    The first half of the channels encodes the column, the second the row: sines, then cosines, of
    periods up to 10,000 patches. A position has the same embedding in grids of all sizes.
    """
    quarter = width // 4
    powers = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    grid = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32, device=device),
        torch.arange(columns, dtype=torch.float32, device=device),
        indexing="ij",
    )
    angles = [axis.reshape(-1, 1) * 10_000**-powers for axis in reversed(grid)]  # (L, C / 4)
    return torch.cat([wave for axis in angles for wave in (axis.sin(), axis.cos())], dim=1)


class Attention(nn.Module):
    """Self-attention with heads of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (N, L, 3, A, C / A)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, A, L, C / A)
        y = F.scaled_dot_product_attention(q, k, v)  # (N, A, L, C / A)
        return self.out(y.transpose(1, 2).flatten(2))  # (N, L, C)


class Block(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by c (adaLN-Zero, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width)
        self.expand = nn.Linear(width, MLP_RATIO * width)
        self.contract = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        parts = self.modulation(F.silu(c))[:, None, :].chunk(6, dim=2)  # each (N, 1, C)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate * self.attention(_modulated(x, shift, scale))  # (N, L, C)
        y = self.expand(_modulated(x, shift_mlp, scale_mlp))  # (N, L, 4 C)
        return x + gate_mlp * self.contract(F.gelu(y, approximate="tanh"))  # (N, L, C)


class Final(nn.Module):
    """Project tokens to the pixels of their patches."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.values = nn.Linear(width, values)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c))[:, None, :].chunk(2, dim=2)  # each (N, 1, C)
        return self.values(_modulated(x, shift, scale))  # (N, L, p p K)


class DiT(DiffusionNetwork):
    """Predict x from its corrupted form, the time step and the condition.

    Every gate and the final layer start at zero, so in an untrained network each block is the
    identity and the prediction is zero.
    """

    def __init__(
        self, width: int, depth: int, cond_dim: int | None = None, in_channels: int = 4
    ) -> None:
        """Build a network of `depth` blocks.

        Args:
            width: C, a multiple of 64, or of 4 below 128.
            cond_dim: D; None builds no condition embedding.
            in_channels: K: 3 for images, 4 for latents.
        """
        super().__init__()
        self.channels = (width,) * depth
        self.multiple = PATCHES[in_channels]
        self.strides = (self.multiple,) * depth
        self.default_blocks = tuple(depth * (i + 1) // TAPPED - 1 for i in range(TAPPED))
        self.in_channels = in_channels
        self.cond_dim = checked_width(cond_dim)
        self.patches = nn.Conv2d(in_channels, width, self.multiple, stride=self.multiple)
        self.condition = Condition(width, cond_dim)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.final = Final(width, self.multiple**2 * in_channels)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check(x, condition)
        c = self.condition(t, condition)  # (N, C)
        tokens = self._tokens(x)  # (N, L, C)
        for block in self.blocks:
            tokens = block(tokens, c)
        patches = self.final(tokens, c).transpose(1, 2)  # (N, p p K, L)
        patches = patches.unflatten(2, (-1, x.shape[3] // self.multiple))  # (N, p p K, h/p, w/p)
        return F.pixel_shuffle(patches, self.multiple)  # (N, K, h, w)

    def features(
        self, x: Tensor, t: Tensor, condition: Tensor | None, blocks: Sequence[int]
    ) -> list[Tensor]:
        self.check(x, condition)
        c = self.condition(t, condition)  # (N, C)
        tokens = self._tokens(x)  # (N, L, C)
        columns = x.shape[3] // self.multiple
        outputs: dict[int, Tensor] = {}
        for number in range(max(blocks) + 1):
            tokens = self.blocks[number](tokens, c)  # (N, L, C)
            if number in blocks:
                outputs[number] = tokens.transpose(1, 2).unflatten(2, (-1, columns))
        return [outputs[block] for block in blocks]  # (N, C, h / p, w / p)

    def _tokens(self, x: Tensor) -> Tensor:
        maps = self.patches(x)  # (N, C, h / p, w / p)
        rows, columns = maps.shape[2:]
        return maps.flatten(2).transpose(1, 2) + positions(rows, columns, maps.shape[1], x.device)

    def _initialise(self) -> None:
        initialise_linearly(self)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))  # fans of the equivalent Linear
        for module in self.modules():
            if isinstance(module, Block | Final):
                nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(self.final.values.weight)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply a LayerNorm without weights, then scale and shift: (N, L, C)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift
