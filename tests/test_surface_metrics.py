"""Distances between contours: loops over all pairs of pixels, and manual values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bench.api import Prediction
from bench.metrics import surface
from bench.metrics.boundary import contour

masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
EMPTY, FULL = np.zeros((30, 40), bool), np.ones((30, 40), bool)


def tabulate(predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    prediction = Prediction(predicted, predicted.astype(np.float32))
    counts = surface.METRIC.count(prediction, true.astype(np.int32))
    return {name: np.array([count]) for name, count in counts.items()}


def scores(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return nsd and hd95."""
    counts = tabulate(predicted, true)
    nsd, hd95 = (score(counts).item() for score in surface.METRIC.scores.values())
    return nsd, hd95


def defined(predicted: np.ndarray, true: np.ndarray) -> dict[str, bool]:
    counts = tabulate(predicted, true)
    return {name: rule(counts).item() for name, rule in surface.METRIC.defined.items()}


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = True
    return mask


def all_distances(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    """Measure every contour pixel against every other, in a loop."""
    ours, theirs = (np.argwhere(contour(mask)).tolist() for mask in (predicted, true))
    return [
        min(((y - v) ** 2 + (x - u) ** 2) ** 0.5 for v, u in others)
        for points, others in ((ours, theirs), (theirs, ours))
        for y, x in points
    ]


@given(masks)
def test_scores_agree_with_all_pairs_of_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    nsd, hd95 = scores(*pair)
    if not all(contour(mask).any() for mask in pair):
        return
    distances = sorted(all_distances(*pair))
    place = 0.95 * (len(distances) - 1)
    below, above = distances[int(place)], distances[min(int(place) + 1, len(distances) - 1)]
    assert nsd == pytest.approx(np.mean([distance <= 2 for distance in distances]))
    assert hd95 == pytest.approx(below + (place - int(place)) * (above - below))


def test_distances_of_single_pixels() -> None:
    assert scores(square(5, 5, 1), square(5, 7, 1)) == (1.0, 2.0)
    assert scores(square(5, 5, 1), square(6, 7, 1)) == (0.0, pytest.approx(5**0.5))
    assert scores(square(5, 5, 1), square(8, 9, 1)) == (0.0, 5.0)


def test_surface_dice_of_nested_squares() -> None:
    # Outlines of 4 * 8 and 4 * 14 pixels, three apart all around: none is near. Two apart, with
    # 4 * 12 pixels, the corners of the larger one (sqrt 8) and those beside them (sqrt 5) are far.
    assert scores(square(10, 10, 9), square(7, 7, 15))[0] == 0.0
    nsd, hd95 = scores(square(10, 10, 9), square(8, 8, 13))
    assert nsd == pytest.approx((32 + 48 - 4 * 3) / (32 + 48))
    assert hd95 == pytest.approx(0.95 * 5**0.5 + 0.05 * 8**0.5)  # of 80, place 0.95 * 79 = 75.05


def test_masks_without_contours_score_by_convention() -> None:
    assert scores(EMPTY, EMPTY) == scores(FULL, FULL) == (1.0, 0.0)
    for pair in ((EMPTY, FULL), (EMPTY, square(3, 3, 5)), (FULL, square(3, 3, 5))):
        assert scores(*pair) == scores(*pair[::-1]) == (0.0, 50.0)
        assert not defined(*pair)["hd95"]
    assert defined(EMPTY, EMPTY) == defined(EMPTY, FULL) == {"nsd": False, "hd95": False}
    assert defined(EMPTY, square(3, 3, 5)) == {"nsd": True, "hd95": False}
    assert defined(square(4, 4, 5), square(3, 3, 5)) == {"nsd": True, "hd95": True}


@given(masks)
def test_scores_are_bounded_and_symmetric(pair: tuple[np.ndarray, np.ndarray]) -> None:
    nsd, hd95 = scores(*pair)
    assert 0.0 <= nsd <= 1.0
    assert 0.0 <= hd95 <= np.hypot(*pair[0].shape)
    assert scores(*pair) == pytest.approx(scores(*pair[::-1]))
    assert scores(pair[0], pair[0]) == (1.0, 0.0)
    assert surface.METRIC.lower_is_better == {"hd95"}
