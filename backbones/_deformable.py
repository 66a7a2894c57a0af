"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1, equation 3).

A query attends to P points around its reference point in each of L maps: it predicts their offsets
and weights, and sums the sampled values. Pure PyTorch, with one bilinear `grid_sample` per map, so
that no tensor contains the points of all maps.

Letters: N images, Q queries, L maps of h_l x w_l pixels, V = sum of h_l w_l their flattened pixels,
M heads, P points per map and head, C channels, D channels per head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api.nn import full_precision

MapSize = tuple[int, int]  # height, width


def centres(sizes: Sequence[MapSize], device: torch.device) -> Tensor:
    """Return the pixel centres of maps, row by row, map after map.

    Returns:
        (V, 2) float32 x and y as fractions of the map's width and height.
    """
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height  # (h,)
        x = (torch.arange(width, device=device) + 0.5) / width  # (w,)
        points.append(torch.cartesian_prod(y, x).flip(-1))  # (h w, 2)
    return torch.cat(points)


def ring(heads: int, maps: int, points: int) -> Tensor:
    """Return the initial offsets (M, L, P, 2), x and y in pixels.

    The heads have equally spaced directions. The larger coordinate of point p, from 1, is p.
    """
    angles = torch.arange(heads) * (2 * math.pi / heads)  # (M,)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (M, 2)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    distances = torch.arange(1, points + 1).view(1, 1, points, 1)
    return (directions.view(heads, 1, 1, 2) * distances).repeat(1, maps, 1, 1)


def sample(values: Tensor, sizes: Sequence[MapSize], points: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the maps' bilinearly interpolated values, zero outside the maps.

    Args:
        values: (N, V, M, D), the maps' pixels row by row, map after map.
        sizes: h_l and w_l of each map.
        points: (N, Q, M, L, P, 2) x and y as fractions of the map's width and height.
        weights: (N, Q, M, L, P).

    Returns:
        (N, Q, M D).
    """
    images, _, heads, channels = values.shape
    total = values.new_zeros(())
    maps = values.split([height * width for height, width in sizes], dim=1)
    for level, (pixels, size) in enumerate(zip(maps, sizes, strict=True)):
        level_map = pixels.permute(0, 2, 3, 1).reshape(images * heads, channels, *size)
        grid = 2 * points[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (N M, Q, P, 2)
        sampled = F.grid_sample(level_map, grid, align_corners=False)  # (N M, D, Q, P)
        level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N M, Q, P)
        total = total + (sampled * level_weights[:, None]).sum(-1)  # (N M, D, Q)
    return total.unflatten(0, (images, heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableAttention(nn.Module):
    """Attention of queries to a few points of every map; values have `ratio` times the width."""

    def __init__(
        self, width: int, heads: int, *, maps: int, points: int = 4, ratio: float = 0.5
    ) -> None:
        super().__init__()
        inner = int(ratio * width)
        self.shape = (heads, maps, points)
        self.offsets = nn.Linear(width, 2 * heads * maps * points)
        self.weights = nn.Linear(width, heads * maps * points)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Attend to the points of `ring` with equal weights, independent of the query."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.value, self.output):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring(*self.shape).flatten())

    def forward(
        self, queries: Tensor, references: Tensor, values: Tensor, sizes: Sequence[MapSize]
    ) -> Tensor:
        """Map queries (N, Q, C) to (N, Q, C).

        Points are computed in float32 also inside autocast, since bfloat16 cannot distinguish
        neighbouring points of a large map.

        Args:
            queries: (N, Q, C).
            references: (Q, 2) x and y as fractions of the width and height, the same in all maps.
            values: (N, V, C), the maps' pixels row by row, map after map.
            sizes: h_l and w_l of each map.
        """
        heads, maps, points = self.shape
        values = self.value(values).unflatten(-1, (heads, -1))  # (N, V, M, D)
        with full_precision(queries.device.type):
            queries, values = _at_least_float32(queries), _at_least_float32(values)
            offsets = self.offsets(queries).unflatten(-1, (heads, maps, points, 2))
            scale = offsets.new_tensor([(width, height) for height, width in sizes])  # (L, 2)
            centre = references.to(offsets)[:, None, None, None]  # (Q, 1, 1, 1, 2)
            locations = centre + offsets / scale[:, None]  # (N, Q, M, L, P, 2)
            weights = self.weights(queries).unflatten(-1, (heads, -1)).softmax(-1)
            weights = weights.unflatten(-1, (maps, points))  # (N, Q, M, L, P)
            sampled = sample(values, sizes, locations, weights)  # (N, Q, M D)
        return self.output(sampled)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
