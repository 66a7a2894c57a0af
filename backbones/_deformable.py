"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1, equation 3).

A query looks at P points around its own place in each of L maps, finds by itself how far off they
lie and how much each counts, and takes their weighted sum. Pure PyTorch: one bilinear `grid_sample`
a map, so that no tensor holds the points of all maps at once.

Letters: N images, Q queries, L maps of h_l x w_l pixels, V = sum of h_l w_l their pixels in a row,
M heads, P points a map and head, C channels, D channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runner import full_precision

Size = tuple[int, int]  # height, width


def centres(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """Give the centres of the pixels of maps, row by row, map after map.

    Returns:
        (V, 2) float32 x and y as fractions of the map's width and height.
    """
    places = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height  # (h,)
        x = (torch.arange(width, device=device) + 0.5) / width  # (w,)
        places.append(torch.cartesian_prod(y, x).flip(-1))  # (h w, 2)
    return torch.cat(places)


def ring(heads: int, maps: int, points: int) -> Tensor:
    """Give the first offsets (M, L, P, 2), x and y in pixels: a direction a head, farther by point.

    The directions go round once; their longer coordinate is the number of the point, from 1.
    """
    angles = torch.arange(heads) * (2 * math.pi / heads)  # (M,)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (M, 2)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    distances = torch.arange(1, points + 1).view(1, 1, points, 1)
    return (directions.view(heads, 1, 1, 2) * distances).repeat(1, maps, 1, 1)


def sample(values: Tensor, sizes: Sequence[Size], places: Tensor, weights: Tensor) -> Tensor:
    """Sum what lies at places of maps, between pixels bilinearly, and nought outside of a map.

    Args:
        values: (N, V, M, D), the maps' pixels row by row, map after map.
        sizes: h_l and w_l of each map.
        places: (N, Q, M, L, P, 2) x and y as fractions of the map's width and height.
        weights: (N, Q, M, L, P).

    Returns:
        (N, Q, M D).
    """
    images, _, heads, channels = values.shape
    seen = values.new_zeros(())
    parts = values.split([height * width for height, width in sizes], dim=1)
    for level, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        level_map = part.permute(0, 2, 3, 1).reshape(images * heads, channels, *size)
        grid = 2 * places[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (N M, Q, P, 2)
        found = F.grid_sample(level_map, grid, align_corners=False)  # (N M, D, Q, P)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N M, Q, P)
        seen = seen + (found * share[:, None]).sum(-1)  # (N M, D, Q)
    return seen.unflatten(0, (images, heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableAttention(nn.Module):
    """Attention of queries to a few points of each map, values of `ratio` times the width."""

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
        self.restart()

    def restart(self) -> None:
        """Look at a ring of points, each as much as the other, whatever the query."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.value, self.output):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring(*self.shape).flatten())

    def forward(self, queries: Tensor, at: Tensor, values: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Attend from queries (N, Q, C) at places `at` (Q, 2) to values (N, V, C): (N, Q, C).

        Where to look is computed in float32 inside autocast: eight bits cannot tell two points of a
        large map apart.

        Args:
            at: x and y as fractions of the width and height, the same in all maps.
            values: the maps' pixels row by row, map after map.
            sizes: h_l and w_l of each map.
        """
        heads, maps, points = self.shape
        found = self.value(values).unflatten(-1, (heads, -1))  # (N, V, M, D)
        with full_precision(queries.device.type):
            queries, found = _at_least_float32(queries), _at_least_float32(found)
            offsets = self.offsets(queries).unflatten(-1, (heads, maps, points, 2))
            scale = offsets.new_tensor([(width, height) for height, width in sizes])  # (L, 2)
            places = at.to(offsets)[:, None, None, None] + offsets / scale[:, None]
            weights = self.weights(queries).unflatten(-1, (heads, -1)).softmax(-1)
            weights = weights.unflatten(-1, (maps, points))  # (N, Q, M, L, P)
            seen = sample(found, sizes, places, weights)  # (N, Q, M D)
        return self.output(seen)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
