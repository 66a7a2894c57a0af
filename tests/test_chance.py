"""Chance baselines: against manual values, and against random masks."""

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
    by_name = {name: chance.baseline_scores(metric_of(name), name, counts) for name in NAMES}
    return {name: float(values[0]) for name, values in by_name.items() if values is not None}


def summary(mean: float, low: float | None, high: float | None) -> Summary:
    return Summary(mean, Interval(low, high, "expanded"), None, 9, 9)


def test_all_background_has_half_of_the_dice_of_the_background():
    by_name = scores("all background", 20, 80)
    assert by_name["dice"] == by_name["precision"] == by_name["recall"] == by_name["iou"] == 0
    assert by_name["dice_macro"] == pytest.approx(0.8 / 1.8)  # (1 - p) / (2 - p)
    assert by_name["precision_macro"] == pytest.approx(0.4)


def test_all_foreground_has_recall_1_and_the_prevalence_as_precision():
    by_name = scores("all foreground", 20, 80)
    assert (by_name["recall"], by_name["precision"], by_name["iou"]) == (1, 0.2, 0.2)
    assert by_name["dice"] == pytest.approx(2 * 0.2 / 1.2)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_random_at_prevalence_has_macro_precision_and_macro_dice_of_one_half(f: int, b: int):
    by_name = scores("random at prevalence", f, b)
    assert by_name["precision_macro"] == pytest.approx(0.5)
    assert by_name["dice_macro"] == pytest.approx(0.5)
    assert by_name["dice"] == pytest.approx(f / (f + b))
    assert by_name["recall"] == pytest.approx(f / (f + b))


def test_random_masks_have_the_expected_scores():
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
def test_every_baseline_has_scores_from_0_to_1_on_every_image(
    baseline: str, foreground: int, background: int
):
    by_name = scores(baseline, foreground, background)
    assert len(by_name) == len(NAMES)
    assert all(0 <= value <= 1 for value in by_name.values())


def test_a_score_that_needs_geometry_has_no_baseline():
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
def test_an_interval_that_contains_chance_or_is_below_it_is_marked(
    low: float, high: float, word: str
):
    assert chance.compared_with(summary(0.55, low, high), 0.5) == word


def test_without_an_interval_the_mean_is_compared_with_chance():
    assert chance.compared_with(summary(0.5, None, None), 0.5) == "at chance"
    assert chance.compared_with(summary(0.4, None, None), 0.5) == "below chance"
    assert chance.compared_with(summary(0.6, None, None), 0.5) == ""
