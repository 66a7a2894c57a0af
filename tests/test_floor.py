"""What no pixel is looked at for: by hand, and against masks that are drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.api.board import Interval, Summary
from bench.board import chance
from bench.board.scores import metric_of

NAMES = ("dice", "dice_macro", "precision", "precision_macro", "recall", "iou")


def scores(baseline: str, foreground: float, background: float) -> dict[str, float]:
    counts = chance.baseline_counts(baseline, np.array([foreground]), np.array([background]))
    found = {name: chance.baseline_scores(metric_of(name), name, counts) for name in NAMES}
    return {name: float(values[0]) for name, values in found.items() if values is not None}


def summary(mean: float, low: float | None, high: float | None) -> Summary:
    return Summary(mean, Interval(low, high, "expanded"), None, 9, 9)


def test_all_background_scores_half_of_the_dice_of_the_background():
    found = scores("all background", 20, 80)
    assert found["dice"] == found["precision"] == found["recall"] == found["iou"] == 0
    assert found["dice_macro"] == pytest.approx(0.8 / 1.8)  # (1 - p) / (2 - p)
    assert found["precision_macro"] == pytest.approx(0.4)


def test_all_foreground_recalls_everything_at_the_precision_of_the_prevalence():
    found = scores("all foreground", 20, 80)
    assert (found["recall"], found["precision"], found["iou"]) == (1, 0.2, 0.2)
    assert found["dice"] == pytest.approx(2 * 0.2 / 1.2)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_random_at_prevalence_has_a_macro_precision_and_a_macro_dice_of_a_half(f: int, b: int):
    found = scores("random at prevalence", f, b)
    assert found["precision_macro"] == pytest.approx(0.5)
    assert found["dice_macro"] == pytest.approx(0.5)
    assert found["dice"] == pytest.approx(f / (f + b))
    assert found["recall"] == pytest.approx(f / (f + b))


def test_masks_drawn_at_random_score_what_is_expected():
    rng = np.random.default_rng(0)
    true = rng.random((400, 400)) < 0.3
    guess = rng.random(true.shape) < true.mean()
    drawn = {"tp": guess & true, "fp": guess & ~true, "fn": ~guess & true, "tn": ~guess & ~true}
    counts = {name: np.array([float(mask.sum())]) for name, mask in drawn.items()}
    expected = scores("random at prevalence", true.sum(), (~true).sum())
    for name in NAMES:
        assert metric_of(name).scores[name](counts)[0] == pytest.approx(expected[name], abs=0.01)


@pytest.mark.parametrize("baseline", chance.BASELINES)
@pytest.mark.parametrize(("foreground", "background"), [(0, 9), (9, 0), (1, 99)])
def test_every_answer_has_scores_from_0_to_1_on_every_image(
    baseline: str, foreground: int, background: int
):
    found = scores(baseline, foreground, background)
    assert len(found) == len(NAMES)
    assert all(0 <= value <= 1 for value in found.values())


def test_a_score_that_needs_geometry_has_no_chance():
    counts = chance.baseline_counts("all background", np.array([2.0]), np.array([8.0]))
    assert chance.baseline_scores(metric_of("bf1"), "bf1", counts) is None


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.4, 0.6, "at chance"),
        (0.5, 0.6, "at chance"),
        (0.3, 0.4, "below chance"),
        (0.51, 0.6, ""),
    ],
)
def test_an_interval_that_holds_chance_or_lies_below_it_is_marked(
    low: float, high: float, word: str
):
    assert chance.compared_with(summary(0.55, low, high), 0.5) == word


def test_without_an_interval_the_mean_is_compared_with_chance():
    assert chance.compared_with(summary(0.5, None, None), 0.5) == "at chance"
    assert chance.compared_with(summary(0.4, None, None), 0.5) == "below chance"
    assert chance.compared_with(summary(0.6, None, None), 0.5) == ""
