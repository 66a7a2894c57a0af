"""Curves of score against x: the fitted power law, its intervals, and when there is none."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from bench.api.report import Curve, Fit, Point
from bench.errors import BenchError
from bench.stats import bootstrap, curves
from bench.stats.power_law import fit_laws

SEED = "toy\nimages"
LABELS = np.array([1.0, 2, 4, 8, 16, 32])


def law(x: np.ndarray, limit: float, b: float, exponent: float) -> np.ndarray:
    return limit - b * x**-exponent


def noisy(means: np.ndarray, *, n: int = 30, draws: int = 0, seed: int = 0) -> list[Point]:
    """Return points at LABELS whose images differ by patient, by noise and by support set."""
    rng = np.random.default_rng(seed)
    patients = [f"{i:03d}" for i in range(n)]
    effects = rng.normal(scale=0.08, size=n)
    points = []
    for x, mean in zip(LABELS, means, strict=False):
        scores = mean + effects + rng.normal(scale=0.05, size=(draws, n) if draws else n)
        if draws:
            scores = scores + rng.normal(scale=0.05, size=(draws, 1))
        points.append(Point(float(x), f"{x:g} labels", np.clip(scores, 0, 1), patients))
    return points


def exact(x: np.ndarray, means: np.ndarray, n: int = 12) -> list[Point]:
    patients = [f"{i:03d}" for i in range(n)]
    return [
        Point(float(at), f"{at:g}", np.full(n, mean), patients)
        for at, mean in zip(x, means, strict=True)
    ]


def curve(points: list[Point]) -> Curve:
    return curves.curve(points, seed_text=SEED)


def fit_of(result: Curve) -> Fit:
    assert result.fit is not None, result.unfitted
    return result.fit


@settings(max_examples=30, deadline=None)
@given(
    limit=st.floats(0.5, 0.95),
    share=st.floats(0.1, 0.9),
    exponent=st.floats(0.2, 2.0),
    scale=st.sampled_from([1.0, 1e6]),
)
def test_a_law_without_noise_is_recovered(limit, share, exponent, scale):
    x = LABELS * scale
    means = limit - share * limit * LABELS**-exponent
    fit = fit_laws(x, means[None], np.array([1.0, 9, 2, 5, 1, 3]))
    assert fit.limit[0] == pytest.approx(limit, abs=1e-6)
    assert fit.gap[0] == pytest.approx(share * limit, abs=1e-6)
    assert fit.exponent[0] == pytest.approx(exponent, rel=1e-5)
    assert fit.at(x)[0] == pytest.approx(means, abs=1e-9)


def test_no_other_law_within_the_bounds_fits_better():
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.2, 5, size=6)
    rows = np.sort(rng.random((25, 6)), axis=1)
    rows[:5] = rng.random((5, 6))  # some that do not rise
    all_fitted = fit_laws(LABELS, rows, weights).at(LABELS)
    for row, fitted in zip(rows, all_fitted, strict=True):

        def residuals(theta: np.ndarray, row: np.ndarray = row) -> np.ndarray:
            return np.sqrt(weights) * (row - law(LABELS, theta[0], theta[1], theta[2]))

        errors = [
            2 * least_squares(residuals, start, bounds=([0, 0, 0.01], [1, np.inf, 10])).cost
            for start in ([0.9, 0.5, 0.1], [0.7, 0.3, 1.0], [0.5, 0.5, 4.0])
        ]
        assert weights @ (row - fitted) ** 2 <= min(errors) + 1e-6


def test_a_fit_contains_the_law_and_its_goodness():
    means = law(LABELS, 0.8, 0.4, 0.6)
    fit = fit_of(curve(exact(LABELS, means)))
    assert (fit.limit, fit.gap, fit.exponent) == pytest.approx((0.8, 0.4, 0.6), abs=1e-5)
    assert fit.rmse < 1e-7
    assert fit.r_squared == pytest.approx(1)
    assert fit.fitted == pytest.approx(means)
    assert fit.flags == []
    assert (fit.interval.low, fit.interval.high) == pytest.approx((0.8, 0.8), abs=1e-5)


def test_the_goodness_of_a_fit_is_computed_from_the_means():
    points = noisy(law(LABELS, 0.8, 0.4, 0.6), n=8)
    fit = fit_of(curve(points))
    means = np.array([point.scores.mean() for point in points])
    assert fit.rmse == pytest.approx(np.sqrt(((means - fit.fitted) ** 2).mean()))
    assert fit.r_squared == pytest.approx(1 - ((means - fit.fitted) ** 2).mean() / means.var())
    assert 0 < fit.rmse < 0.05


@pytest.mark.parametrize("draws", [0, 1, 5])
def test_points_and_steps_have_the_means_and_intervals_of_a_board(draws: int):
    points = noisy(law(LABELS, 0.8, 0.4, 0.6), draws=draws)
    result = curve(points)
    for point, summary in zip(points, result.summaries, strict=True):
        assert summary == bootstrap.summarise(point.scores, point.patients, seed_text=SEED)
    for (before, after), step in zip(pairwise(points), result.steps, strict=True):
        difference = after.scores - before.scores
        assert step == bootstrap.summarise(difference, after.patients, seed_text=SEED)


def test_equal_scores_have_a_step_of_exactly_zero():
    point = noisy(np.array([0.6]), draws=5)[0]
    twin = Point(2.0, "twin", point.scores, point.patients)
    (step,) = curve([point, twin]).steps
    assert (step.mean, step.interval.low, step.interval.high) == (0, 0, 0)


def test_a_run_on_all_images_can_follow_few_shot_draws():
    points = noisy(law(LABELS, 0.8, 0.4, 0.6), draws=5)
    points[-1] = Point(32, "all", points[-1].scores[0], points[-1].patients)
    result = curve(points)
    assert fit_of(result).interval.low is not None
    assert result.summaries[-1].spread is None
    assert result.steps[-1].spread is not None


@pytest.mark.parametrize("draws", [0, 5])
def test_the_order_of_points_does_not_matter_even_at_the_same_x(draws: int):
    points = noisy(law(LABELS, 0.8, 0.4, 0.6), draws=draws)
    points.append(Point(4.0, "another", points[3].scores, points[3].patients))
    one, other = (curve(ordered) for ordered in (points, points[::-1]))
    assert curves.rows(one) == curves.rows(other)
    assert fit_of(one).plain() == fit_of(other).plain()
    assert fit_of(one).band.low == pytest.approx(fit_of(other).band.low, abs=0)
    assert len(fit_of(one).fitted) == 7


def test_the_band_contains_the_law_and_ends_at_twice_the_largest_x():
    band = fit_of(curve(noisy(law(LABELS, 0.8, 0.4, 0.6)))).band
    assert (band.x[0], band.x[-1]) == pytest.approx((1, 64))
    assert 32 in band.x
    assert band.low is not None
    assert band.high is not None
    assert (band.low <= band.mean).all()
    assert (band.mean <= band.high).all()
    assert (np.diff(band.mean) >= 0).all()


@pytest.mark.parametrize("means", [np.full(6, 0.6), np.linspace(0.8, 0.5, 6)])
def test_scores_that_do_not_grow_give_a_law_with_the_flag_flat(means: np.ndarray):
    fit = fit_of(curve(exact(LABELS, means)))
    assert (fit.gap, fit.exponent) == (0, None)
    assert fit.limit == pytest.approx(means.mean())
    assert fit.flags == ["flat: the score does not grow with x"]
    assert fit.r_squared == (None if np.ptp(means) == 0 else pytest.approx(0))


@pytest.mark.parametrize(
    ("means", "kinds"),
    [
        (law(LABELS, 0.7, 0.3, 1.0), []),
        (0.3 + 0.05 * np.log2(LABELS), ["not saturating", "fit not identified"]),
    ],
)
def test_only_a_saturated_curve_has_an_identified_limit(means: np.ndarray, kinds: list[str]):
    flags = fit_of(curve(noisy(means, n=50))).flags
    assert [flag.partition(":")[0] for flag in flags] == kinds


def test_with_three_points_the_exponent_is_fixed():
    x = LABELS[:3]
    fit = fit_of(curve(exact(x, law(x, 0.8, 0.4, 0.5))))
    assert (fit.limit, fit.gap, fit.exponent) == pytest.approx((0.8, 0.4, 0.5))
    assert fit.flags[-1] == "exponent fixed at 0.5: only three different x"


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_points_have_intervals_but_no_law(count: int):
    result = curve(noisy(LABELS[:count] / 8))
    assert result.fit is None
    assert result.unfitted == f"no law: {count} different x, fewer than 3"
    assert all(summary.interval.low is not None for summary in result.summaries)
    assert [row["fitted"] for row in curves.rows(result)] == [None] * count


def test_scores_above_one_have_no_law():
    result = curve(exact(LABELS, 10 / LABELS))  # pixels, say
    assert (result.fit, result.unfitted) == (None, "no law: scores outside [0, 1]")


def test_fewer_than_five_patients_have_a_law_without_a_band():
    fit = fit_of(curve(noisy(law(LABELS, 0.8, 0.4, 0.6), n=4)))
    assert (fit.band.low, fit.interval.low) == (None, None)
    assert fit.interval.note == "no interval: n = 4, fewer than 5"
    assert "fit not identified: too few patients for an interval of the limit" in fit.flags


def test_rows_and_the_law_can_be_written_as_json():
    result = curve(noisy(law(LABELS, 0.8, 0.4, 0.6), draws=5))
    rows = json.loads(json.dumps(curves.rows(result)))
    assert rows == curves.rows(result)
    assert [row["x"] for row in rows] == LABELS.tolist()
    assert rows[0]["step"] is None
    assert rows[1]["step"] == pytest.approx(rows[1]["mean"] - rows[0]["mean"])
    assert json.loads(json.dumps(fit_of(result).plain())) == fit_of(result).plain()


@pytest.mark.parametrize("x", [0.0, -1.0, np.inf, np.nan])
def test_an_x_without_a_logarithm_is_refused(x: float):
    with pytest.raises(BenchError, match="above 0"):
        Point(x, "random start", np.ones(5), list("abcde"))


def test_points_of_different_images_or_draws_are_refused():
    one = Point(1, "one", np.ones((5, 3)), ["a", "b", "c"])
    with pytest.raises(BenchError, match="one data set and split"):
        curve([one, Point(2, "two", np.ones((5, 3)), ["a", "c", "b"])])
    with pytest.raises(BenchError, match="3 and 5 few-shot draws"):
        curve([one, Point(2, "two", np.ones((3, 3)), ["a", "b", "c"])])
    with pytest.raises(BenchError, match="without points"):
        curve([])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draws", "limit", "b", "exponent"), [(0, 0.8, 0.3, 0.5), (5, 0.7, 0.2, 1.0)]
)
def test_the_band_and_the_limit_cover_the_truth(draws, limit, b, exponent):
    in_band, of_limit = [], []
    for seed in range(50):
        points = noisy(law(LABELS, limit, b, exponent), draws=draws, seed=seed)
        fit = fit_of(curves.curve(points, seed_text=str(seed)))
        true = law(fit.band.x, limit, b, exponent)
        low, high = fit.band.low, fit.band.high
        assert low is not None
        assert high is not None
        in_band.append(((low <= true) & (true <= high)).mean())
        ends = np.array([fit.interval.low, fit.interval.high], dtype=float)
        of_limit.append(ends[0] <= limit <= ends[1])
    assert np.mean(in_band) >= 0.88
    assert np.mean(of_limit) >= 0.88
