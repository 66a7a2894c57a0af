"""Average precision of pixels, against a loop over thresholds and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import Prediction
from bench.metrics.average_precision import METRIC


def ap(probability: np.ndarray, true: np.ndarray) -> tuple[float, bool]:
    """Return the score of an image and whether it is defined."""
    prediction = Prediction(probability > 0.5, probability)
    counts = METRIC.count(prediction, true.astype(np.int32))
    columns = {name: np.array([count]) for name, count in counts.items()}
    return METRIC.scores["ap"](columns).item(), METRIC.defined["ap"](columns).item()


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_area_of_a_loop_over_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.choice(np.array([0, 0.1, 0.25, 0.5, 0.9, 1], np.float32), (3, 4))  # with ties
    true = rng.random((3, 4)) < seed / 20
    area, recall = 0.0, 0.0
    for threshold in sorted(set(probability.ravel().tolist()), reverse=True):
        chosen = probability >= threshold
        hits = np.sum(chosen & true)
        if true.any():
            area += (hits / true.sum() - recall) * hits / chosen.sum()
            recall = hits / true.sum()
    assert ap(probability, true) == (pytest.approx(area if true.any() else 1.0), true.any())


def test_values_by_hand() -> None:
    true = np.array([[1, 0, 1, 0]], bool)
    assert ap(np.array([[0.9, 0.8, 0.7, 0.1]], np.float32), true) == (pytest.approx(5 / 6), True)
    assert ap(np.full((1, 4), 0.5, np.float32), true) == (0.5, True)  # ties: the prevalence
