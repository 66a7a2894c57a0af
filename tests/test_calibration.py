"""Calibration of probabilities: a loop over pixels, and manual values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bench.api import Prediction
from bench.metrics import calibration

shapes = array_shapes(min_dims=2, max_dims=2, max_side=10)
probabilities = st.floats(0, 1, width=32)
images = shapes.flatmap(
    lambda shape: st.tuples(arrays(np.float32, shape, elements=probabilities), arrays(bool, shape))
)
HALF = np.tile(np.arange(20) >= 10, (20, 1))  # the right half is nucleus


def tabulate(probability: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    prediction = Prediction(probability > 0.5, probability)
    counts = calibration.METRIC.count(prediction, true.astype(np.int32))
    return {name: np.array([count]) for name, count in counts.items()}


def scores(probability: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return ece and ece_band."""
    counts = tabulate(probability, true)
    ece, near = (score(counts).item() for score in calibration.METRIC.scores.values())
    return ece, near


def ece_of_a_loop(probability: list[float], true: list[bool]) -> float:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, truth in zip(probability, true, strict=True):
        bins.setdefault(min(int(15 * p), 14), []).append((p, truth))
    gaps = [
        len(rows) / len(true) * abs(np.mean([p for p, _ in rows]) - np.mean([t for _, t in rows]))
        for rows in bins.values()
    ]
    return float(sum(gaps))


def steps_to_the_other_class(true: np.ndarray, y: int, x: int) -> int:
    others = np.argwhere(true != true[y, x]).tolist()
    return min((abs(v - y) + abs(u - x) for v, u in others), default=99)


@given(images)
def test_the_band_is_within_three_steps_of_the_other_class(
    image: tuple[np.ndarray, np.ndarray],
) -> None:
    true = image[1]
    expected = [steps_to_the_other_class(true, y, x) <= 3 for y, x in np.ndindex(true.shape)]
    assert calibration.band(true).ravel().tolist() == expected


@given(images)
def test_errors_agree_with_a_loop_over_pixels(image: tuple[np.ndarray, np.ndarray]) -> None:
    probability, true = image
    ece, near = scores(probability, true)
    assert ece == pytest.approx(ece_of_a_loop(probability.ravel().tolist(), true.ravel().tolist()))
    band = calibration.band(true)
    if band.any():
        expected = ece_of_a_loop(probability[band].tolist(), true[band].tolist())
        assert near == pytest.approx(expected)
    assert 0.0 <= ece <= 1.0
    assert 0.0 <= near <= 1.0


def test_errors_of_constant_and_of_certain_probabilities() -> None:
    assert calibration.METRIC.lower_is_better == calibration.METRIC.scores.keys()
    assert scores(HALF.astype(np.float32), HALF) == (0.0, 0.0)
    assert scores(1 - HALF.astype(np.float32), HALF) == (1.0, 1.0)
    assert scores(np.full((20, 20), 0.5, np.float32), HALF) == (0.0, 0.0)
    assert scores(np.full((20, 20), 0.75, np.float32), HALF) == (0.25, 0.25)


def test_an_error_far_from_the_boundary_is_outside_the_band() -> None:
    probability = HALF.astype(np.float32)
    probability[:, 0] = 1.0  # one of twenty columns, certain and wrong
    # The bin of 1 has 11 columns, 10 of them true.
    assert scores(probability, HALF) == (pytest.approx(1 / 20), 0.0)
    probability = HALF.astype(np.float32)
    probability[:, 9] = 1.0  # the last column before the boundary: one of six in the band
    assert scores(probability, HALF) == (pytest.approx(1 / 20), pytest.approx(1 / 6))


def test_an_image_without_boundary_has_no_band() -> None:
    for true in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        counts = tabulate(np.full((9, 9), 0.5, np.float32), true)
        assert calibration.METRIC.scores["ece_band"](counts).tolist() == [0.0]
        assert calibration.METRIC.defined["ece_band"](counts).tolist() == [False]
        assert calibration.METRIC.scores["ece"](counts).tolist() == [0.5]
    assert calibration.METRIC.defined["ece_band"](tabulate(HALF.astype(np.float32), HALF)).all()
