"""Deformable attention against its definition in loops, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.backbones import _deformable
from bench.backbones._deformable import DeformableAttention, MapSize, centres, ring, sample


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def interpolate(level: Tensor, x: float, y: float) -> Tensor:
    """Interpolate a map (h, w, D) at x and y in pixels, 0 the centre of the first; nought outside.

    Written from the definition of bilinear interpolation.
    """
    value = torch.zeros(level.shape[-1], dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < level.shape[0] and 0 <= column < level.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return value


def slow_sample(values: Tensor, sizes: list[MapSize], places: Tensor, weights: Tensor) -> Tensor:
    images, queries, heads, _, points = weights.shape
    parts = values.split([height * width for height, width in sizes], dim=1)
    seen = torch.zeros(images, queries, heads, values.shape[-1], dtype=values.dtype)
    for n, q, m, p in torch.cartesian_prod(*map(torch.arange, (images, queries, heads, points))):
        for level, (part, (height, width)) in enumerate(zip(parts, sizes, strict=True)):
            x, y = places[n, q, m, level, p].tolist()
            level_map = part[n, :, m].reshape(height, width, -1)
            value = interpolate(level_map, x * width - 0.5, y * height - 0.5)
            seen[n, q, m] += weights[n, q, m, level, p] * value
    return seen.flatten(2)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3),
    points=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_sampling_equals_its_definition_also_outside_the_maps(
    sizes: list[MapSize], points: int, seed: int
) -> None:
    torch.manual_seed(seed)
    count = sum(height * width for height, width in sizes)
    values = torch.randn(2, count, 2, 3, dtype=torch.float64)
    places = torch.empty(2, 3, 2, len(sizes), points, 2, dtype=torch.float64).uniform_(-0.6, 1.6)
    weights = torch.randn(2, 3, 2, len(sizes), points, dtype=torch.float64)
    expected = slow_sample(values, sizes, places, weights)
    torch.testing.assert_close(sample(values, sizes, places, weights), expected)


def test_the_layer_equals_its_definition() -> None:
    torch.manual_seed(0)
    sizes = [(4, 6), (2, 3)]
    layer = DeformableAttention(8, 2, maps=2, points=3).double()
    for part in (layer.offsets, layer.weights):
        nn.init.normal_(part.weight)
    queries, values = torch.randn(2, 5, 8).double(), torch.randn(2, 30, 8).double()
    at = torch.rand(5, 2).double()
    places = torch.empty(2, 5, 2, 2, 3, 2).double()
    for level, (height, width) in enumerate(sizes):
        shift = layer.offsets(queries).view(2, 5, 2, 2, 3, 2)[:, :, :, level]
        across = torch.tensor([width, height]).double()
        places[:, :, :, level] = at.view(1, 5, 1, 1, 2) + shift / across
    weights = layer.weights(queries).view(2, 5, 2, 6).exp()
    weights = (weights / weights.sum(-1, keepdim=True)).view(2, 5, 2, 2, 3)
    seen = slow_sample(layer.value(values).view(2, 30, 2, 2), sizes, places, weights)
    torch.testing.assert_close(layer(queries, at, values, sizes), layer.output(seen))


def test_gradients_of_sampling_equal_finite_differences() -> None:
    torch.manual_seed(0)
    sizes = [(2, 3), (1, 2)]
    values = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    places = torch.empty(1, 2, 2, 2, 2, 2, dtype=torch.float64).uniform_(-0.1, 1.1).requires_grad_()
    weights = torch.randn(1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *args: sample(args[0], sizes, *args[1:]), (values, places, weights)
    )


def test_the_initial_offsets_are_a_ring_with_equal_weights() -> None:
    layer = DeformableAttention(16, 4, maps=2, points=3)
    queries = noise(1, 7, 16)
    offsets = layer.offsets(queries).view(1, 7, 4, 2, 3, 2)
    assert torch.equal(offsets, ring(4, 2, 3).expand_as(offsets))
    right, down, left, up = ring(4, 2, 3)[:, 0]
    for direction, (x, y) in ((right, (1, 0)), (down, (0, 1)), (left, (-1, 0)), (up, (0, -1))):
        expected = torch.tensor([[n * x, n * y] for n in (1, 2, 3)]).float()
        torch.testing.assert_close(direction, expected, atol=1e-6, rtol=0)
    assert not layer.weights(queries).any()


def test_centres_are_listed_row_by_row() -> None:
    places = centres([(1, 2), (2, 1)], torch.device("cpu"))
    assert places.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


class Largest(TorchDispatchMode):
    """Remember how many numbers the largest new tensor had."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_the_points_of_all_maps_are_never_in_memory_at_once() -> None:
    sizes, queries, heads, points, channels = [(8, 8)] * 3, 64, 2, 4, 8
    places = noise(1, queries, heads, 3, points, 2)
    weights = noise(1, queries, heads, 3, points)
    with Largest() as largest:
        sample(noise(1, 192, heads, channels), sizes, places, weights)
    assert largest.numbers <= queries * heads * points * channels


def test_places_and_weights_stay_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []

    def watched(values: Tensor, sizes: Any, places: Tensor, weights: Tensor) -> Tensor:
        kinds.extend(each.dtype for each in (values, places, weights))
        return sample(values, sizes, places, weights)

    monkeypatch.setattr(_deformable, "sample", watched)
    layer = DeformableAttention(16, 4, maps=1)
    with torch.autocast("cpu", torch.bfloat16):
        seen = layer(noise(1, 3, 16).bfloat16(), noise(3, 2), noise(1, 4, 16), [(2, 2)])
    assert kinds == [torch.float32] * 3
    assert seen.dtype == torch.bfloat16
