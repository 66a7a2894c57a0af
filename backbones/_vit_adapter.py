"""ViT-Adapter (arXiv 2205.08534): a plain ViT and a convolutional pyramid that exchange features.

A stem computes maps at strides 4, 8, 16 and 32. The last three, flattened to one sequence, interact
with the ViT around every quarter of its blocks, by deformable attention: before it the tokens
attend to the pyramid (injector), after it the pyramid attends to the tokens (extractor). SyncBN of
the paper is BatchNorm2d here.

Letters: N images, H and W their sides, h = H/16, w = W/16, T = hw tokens, C channels,
V = 4T + T + T/4 pixels of the pyramid's maps (2h, 2w), (h, w), (h/2, w/2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor

from ._deformable import DeformableAttention, MapSize, centres
from ._plain_vit import PATCH, PlainViT

STEM = 64  # channels of the stem: 64, 128, 256, 256
INTERACTIONS = 4
FEED_RATIO = 0.25  # hidden width of an extractor's MLP / C
EXTRA_EXTRACTORS = 2  # after the last block


class ViTAdapter(FeatureExtractor):
    """Four maps at strides 4, 8, 16 and 32, with the width of the ViT. All parameters train."""

    strides = (4, 8, 16, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self, width: int, depth: int, heads: int, *, grid: int = 14, drop_path: float = 0.0
    ) -> None:
        """Build the network with random weights.

        Args:
            width: C.
            depth: number of blocks of the ViT, a multiple of four.
            heads: of every attention.
            grid: side of the ViT's position grid, in patches.
            drop_path: stochastic depth rate of the extractors and of the ViT's last block; it
                increases linearly from 0 in the first block.
        """
        super().__init__()
        assert depth % INTERACTIONS == 0
        self.channels = (width,) * len(self.strides)
        self.vit = PlainViT(width, depth, heads, grid=grid, drop_path=drop_path)
        self.prior = SpatialPrior(width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.injectors = nn.ModuleList(Injector(width, heads) for _ in range(INTERACTIONS))
        self.extractors = nn.ModuleList(
            Extractor(width, heads, drop_path=drop_path)
            for _ in range(INTERACTIONS + EXTRA_EXTRACTORS)
        )
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.strides)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        images = self.normalise(images)  # (N, 3, H, W)
        grid = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        tokens = self.vit.embed(images)  # (N, T, C)
        finest, *pyramid = self.prior(images)  # (N, C, H/s, W/s) each
        levels = zip(pyramid, self.level_embed, strict=True)
        priors = torch.cat(
            [level.flatten(2).transpose(1, 2) + embedding for level, embedding in levels], dim=1
        )  # (N, V, C)
        quarter = len(self.vit.blocks) // INTERACTIONS
        for number, inject in enumerate(self.injectors):
            tokens = inject(tokens, priors, grid)  # (N, T, C)
            for block in self.vit.blocks[number * quarter : (number + 1) * quarter]:
                tokens = block(tokens)  # (N, T, C)
            priors = self.extractors[number](priors, tokens, grid)  # (N, V, C)
        for extract in self.extractors[INTERACTIONS:]:
            priors = extract(priors, tokens, grid)  # (N, V, C)
        return self._maps(finest, priors, tokens.transpose(1, 2).unflatten(-1, grid))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict; position embeddings keep the grid of the file."""
        self.vit.resize_grid(state.get("vit.pos_embed"))
        super().load(state)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the patch and position embeddings, every block, and the adapter as groups."""
        first = [*self.vit.patch_embed.parameters(), self.vit.pos_embed]
        adapter = [
            weight for name, weight in self.named_parameters() if not name.startswith("vit.")
        ]
        return [first, *(list(block.parameters()) for block in self.vit.blocks), adapter]

    def _maps(self, finest: Tensor, priors: Tensor, vit_map: Tensor) -> list[Tensor]:
        """Add the ViT's map (N, C, h, w) to every level of the pyramid, and normalise."""
        coarser = _unflatten(priors, (vit_map.shape[-2], vit_map.shape[-1]))
        levels = [finest + self.up(coarser[0]), *coarser]  # (N, C, H/s, W/s) each
        resized = [F.interpolate(vit_map, level.shape[-2:], mode="bilinear") for level in levels]
        return [
            norm(level + vit) for norm, level, vit in zip(self.norms, levels, resized, strict=True)
        ]


class SpatialPrior(nn.Module):
    """The convolutional stem: maps at strides 4, 8, 16, 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (STEM, 2 * STEM, 4 * STEM, 4 * STEM)
        self.stem = nn.Sequential(
            *_convolve(3, STEM, stride=2),
            *_convolve(STEM, STEM),
            *_convolve(STEM, STEM),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.steps = nn.ModuleList(
            nn.Sequential(*_convolve(before, after, stride=2)) for before, after in pairwise(widths)
        )
        self.project = nn.ModuleList(nn.Conv2d(before, width, 1) for before in widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.stem(images)]  # (N, 64, H/4, W/4)
        for step in self.steps:
            levels.append(step(levels[-1]))  # (N, 128 or 256, H/s, W/s)
        return [project(level) for project, level in zip(self.project, levels, strict=True)]


class Injector(nn.Module):
    """Attention of the ViT's tokens to the pyramid, scaled by a gain that starts at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.value_norm = nn.LayerNorm(width, eps=1e-6)
        self.attend = DeformableAttention(width, heads, maps=3)
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, priors: Tensor, grid: MapSize) -> Tensor:
        queries, values = self.query_norm(tokens), self.value_norm(priors)
        references = centres([grid], tokens.device)  # (T, 2)
        attended = self.attend(queries, references, values, _pyramid(grid))  # (N, T, C)
        return tokens + self.gain * attended


class Extractor(nn.Module):
    """Attention of the pyramid to the ViT's tokens, then a convolutional MLP."""

    def __init__(self, width: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.value_norm = nn.LayerNorm(width, eps=1e-6)
        self.attend = DeformableAttention(width, heads, maps=1)
        self.feed_norm = nn.LayerNorm(width, eps=1e-6)
        self.feed = ConvolvedFeed(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, priors: Tensor, tokens: Tensor, grid: MapSize) -> Tensor:
        queries, values = self.query_norm(priors), self.value_norm(tokens)
        references = centres(_pyramid(grid), priors.device)  # (V, 2)
        priors = priors + self.attend(queries, references, values, [grid])  # (N, V, C)
        return priors + self.drop_path(self.feed(self.feed_norm(priors), grid))  # (N, V, C)


class ConvolvedFeed(nn.Module):
    """An MLP with a depthwise 3x3 convolution between its layers, shared by the levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(FEED_RATIO * width)
        self.narrow = nn.Linear(width, inner)
        self.convolve = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.widen = nn.Linear(inner, width)

    def forward(self, priors: Tensor, grid: MapSize) -> Tensor:
        levels = _unflatten(self.narrow(priors), grid)  # (N, C/4, ., .) each
        mixed = [self.convolve(level).flatten(2) for level in levels]
        hidden = torch.cat(mixed, dim=-1).transpose(1, 2)  # (N, V, C/4)
        return self.widen(F.gelu(hidden))  # (N, V, C)


def _pyramid(grid: MapSize) -> list[MapSize]:
    height, width = grid
    return [(2 * height, 2 * width), grid, (height // 2, width // 2)]


def _unflatten(priors: Tensor, grid: MapSize) -> list[Tensor]:
    """Split the sequence of pixels (N, V, C) into the three maps of the pyramid."""
    sizes = _pyramid(grid)
    levels = priors.transpose(1, 2).split([height * width for height, width in sizes], dim=-1)
    return [level.unflatten(-1, size) for level, size in zip(levels, sizes, strict=True)]


def _convolve(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _initialise(module: nn.Module) -> None:
    """Initialise one module; `nn.Module.apply` visits submodules first."""
    if isinstance(module, DeformableAttention):
        module.reset_parameters()
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
