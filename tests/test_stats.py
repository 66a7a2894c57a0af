"""Intervals and paired tests, compared with scipy, enumeration and manual values."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.api import board
from bench.errors import BenchError
from bench.stats import bootstrap, paired

SEED = "toy\nimages"
SIZES = [1, 4, 2, 3, 1, 2]  # images of each patient


def patients_of(sizes: list[int]) -> list[str]:
    return [f"patient {chr(97 + i)}" for i, size in enumerate(sizes) for _ in range(size)]


def separate_patients(n: int) -> list[str]:
    return [f"image {i:03d}" for i in range(n)]


def interval(
    values: np.ndarray, patients: list[str] | None = None, **options: Any
) -> board.Interval:
    """Return the interval of scores (n,) or (draws, n), one patient per image by default."""
    patients = patients or separate_patients(values.shape[-1])
    return bootstrap.summarise(values, patients, **{"seed_text": SEED, **options}).interval


def difference(a: np.ndarray, b: np.ndarray, patients: list[str] | None = None) -> board.Difference:
    patients = patients or separate_patients(len(a))
    return paired.paired_difference(a, b, patients, seed_text=SEED)


def ends(result: board.Interval) -> tuple[float, float]:
    assert result.low is not None
    assert result.high is not None
    return result.low, result.high


# ---- intervals over patients -----------------------------------------------------------------


def test_a_resample_draws_the_number_of_patients():
    weights = bootstrap.drawn_patients(5, 1000, SEED)
    assert weights.shape == (1000, 5)
    assert (weights.sum(axis=1) == 5).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)


def test_images_of_a_patient_are_resampled_together():
    sizes, means = [1, 2, 3, 4, 5, 6], [0.1, 0.9, 0.3, 0.5, 0.7, 0.2]
    patients = patients_of(sizes)
    weights = bootstrap.drawn_patients(6, 2000, SEED)
    resampled = weights @ np.multiply(sizes, means) / (weights @ sizes)
    result = interval(np.repeat(means, sizes), patients, method="percentile", resamples=2000)
    assert ends(result) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


def test_the_default_method_uses_expanded_quantile_levels():
    values = np.random.default_rng(0).random(12)
    weights = bootstrap.drawn_patients(12, 10_000, SEED)
    level = stats.norm.cdf(np.sqrt(12 / 11) * stats.t.ppf(0.025, 11))
    expected = np.quantile(weights @ values / 12, [level, 1 - level])
    assert ends(interval(values)) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_by_image_agree_with_scipy(method: str):
    rng = np.random.default_rng(3)
    values = rng.beta(5, 1, size=30)  # skewed, as scores are
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method=method, rng=rng)
    low, high = theirs.confidence_interval
    assert ends(interval(values, method=method)) == pytest.approx(
        (low, high), abs=0.04 * (high - low)
    )


@pytest.mark.parametrize("n", range(5))
@pytest.mark.fault(30)
def test_fewer_than_five_patients_have_no_interval(n: int):
    summary = bootstrap.summarise(np.full(2 * n, 0.5), separate_patients(n) * 2, seed_text=SEED)
    assert (summary.interval.low, summary.interval.high) == (None, None)
    assert summary.interval.note == f"no interval: n = {n}, fewer than 5"
    assert (summary.n_images, summary.n_patients) == (2 * n, n)
    assert summary.mean == (0.5 if n else None)


def test_few_patients_and_few_draws_make_an_interval_unreliable():
    for shape, note in {
        (5,): "unreliable: n = 5, fewer than 10",
        (10,): "",
        (1, 6): "unreliable: n = 6, fewer than 10; conditional on one support set",
        (1, 12): "conditional on one support set",
        (3, 12): "unreliable: 3 draws or seeds, fewer than 5",
        (5, 12): "",
    }.items():
        assert interval(np.random.default_rng(0).random(shape)).note == note


@pytest.mark.parametrize(
    ("scores", "method", "methods"),
    [
        (np.ones(9), "normal", r"expanded\|percentile\|bca`"),
        (np.ones((3, 9)), "bca", r"expanded\|percentile`"),
    ],
)
def test_the_error_for_an_unknown_method_lists_the_methods(scores, method: str, methods: str):
    with pytest.raises(BenchError, match=methods):
        interval(scores, method=method)


@pytest.mark.parametrize("method", board.METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 20])
@pytest.mark.fault(30)
def test_constant_scores_have_an_interval_of_one_point(method: str, n: int):
    result = interval(np.full(n, 0.1), method=method)
    expected = pytest.approx(0.1) if n >= 5 else None
    assert (result.low, result.high) == (expected, expected)


def test_the_seed_determines_the_interval():
    values = np.random.default_rng(0).random(20)
    once, again, other = (interval(values, seed_text=text) for text in (SEED, SEED, "other"))
    bootstrap.drawn.cache_clear()
    assert once == again == interval(values)
    assert once != other


def test_the_seed_depends_on_the_data_set_but_not_on_the_order_of_images():
    seed = bootstrap.shared_seed
    assert seed("tnbc", ["b", "a"]) == seed("tnbc", ["a", "b"]) != seed("kumar", ["a", "b"])


def test_the_order_of_images_does_not_matter():
    rng = np.random.default_rng(0)
    patients = patients_of(SIZES)
    grid, order = rng.random((5, 13)), rng.permutation(13)
    shuffled = [patients[i] for i in order]
    for method in board.METHODS:
        first = interval(grid[0], patients, method=method)
        second = interval(grid[0, order], shuffled, method=method)
        assert ends(first) == pytest.approx(ends(second), abs=1e-12)
    few_shot = interval(grid, patients), interval(grid[:, order], shuffled)
    assert ends(few_shot[0]) == pytest.approx(ends(few_shot[1]), abs=1e-12)
    p = difference(grid[0], grid[1], patients).p
    assert p == difference(grid[0, order], grid[1, order], shuffled).p


@pytest.mark.parametrize("method", board.METHODS)
def test_many_rows_equal_single_rows(method: str):
    rows, patients = np.random.default_rng(0).random((7, 13)), patients_of(SIZES)
    options: Any = {"method": method, "resamples": 500, "seed_text": SEED}
    together = bootstrap.intervals(rows, patients, **options)
    for row, result in zip(rows, together, strict=True):
        assert ends(result) == pytest.approx(ends(interval(row, patients, **options)), abs=1e-12)


# ---- intervals over patients and few-shot draws ----------------------------------------------


@pytest.mark.parametrize("draws", [1, 5])
def test_equal_draws_give_the_interval_over_patients(draws: int):
    values = np.random.default_rng(0).random(15)
    assert ends(interval(np.tile(values, (draws, 1)))) == pytest.approx(ends(interval(values)))


def test_equal_patients_give_the_interval_over_draws():
    draws = np.random.default_rng(0).random(12)
    plain = interval(draws, resamples=20_000, seed_text="other")
    result = interval(np.tile(draws[:, None], (1, 30)), resamples=20_000)
    assert ends(result) == pytest.approx(ends(plain), abs=0.02)


def test_the_crossed_interval_equals_a_simple_loop_over_resamples():
    rng = np.random.default_rng(0)
    grid = rng.random((5, 13)) + rng.random((5, 1))
    of_patient = np.split(np.arange(13), np.cumsum(SIZES)[:-1])
    means = []
    for _ in range(4000):
        draws = rng.integers(5, size=5)
        images = np.concatenate([of_patient[i] for i in rng.integers(6, size=6)])
        means.append(grid[np.ix_(draws, images)].mean())
    result = interval(grid, patients_of(SIZES), method="percentile")
    assert ends(result) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.03)


def test_patients_and_draws_are_resampled_independently():
    patients = separate_patients(8)
    means = bootstrap.resampled_means(np.eye(8), patients, resamples=2000, seed_text=SEED)
    assert means.mean() == pytest.approx(1 / 8, rel=0.1)  # 1.875 / 8 if both were the same


def test_a_summary_contains_mean_and_spread():
    grid = np.array([[0.5, 0.1, 0.9], [0.7, 0.3, 0.9]])
    summary = bootstrap.summarise(grid, ["a", "a", "b"], seed_text=SEED)
    assert summary.mean == pytest.approx(grid.mean())
    assert summary.spread == pytest.approx(np.std([0.5, 1.9 / 3], ddof=1))
    assert (summary.n_images, summary.n_patients) == (3, 2)
    assert bootstrap.summarise(grid[0], ["a", "a", "b"], seed_text=SEED).spread is None


# ---- paired tests ----------------------------------------------------------------------------


def test_the_sign_flip_test_enumerates_all_signs():
    rng = np.random.default_rng(5)
    sizes = [1, 2, 1, 3, 1, 1, 2]
    a, b = rng.random((2, 11))
    sums = [part.sum() for part in np.split(a - b, np.cumsum(sizes)[:-1])]
    flipped = [abs(np.dot(signs, sums)) for signs in product([-1, 1], repeat=7)]
    result = difference(a, b, patients_of(sizes))
    assert result.interval == interval(a - b, patients_of(sizes))
    assert result.p == np.mean(np.array(flipped) >= abs(sum(sums)) - 1e-12)
    assert result.mean == pytest.approx((a - b).mean())
    assert result.n_patients == 7


@pytest.mark.parametrize("n", [8, 40])
def test_the_sign_flip_test_agrees_with_scipy(n: int):
    rng = np.random.default_rng(n)
    a, b = rng.random((2, n)) + np.array([[0.08], [0.0]])
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=rng,
    )
    tolerance = 1e-12 if n == 8 else 0.02
    assert difference(a, b).p == pytest.approx(theirs.pvalue, abs=tolerance)


@pytest.mark.parametrize(("n", "smallest"), [(1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_the_smallest_p_is_two_of_all_sign_patterns(n: int, smallest: float):
    result = difference(np.ones(n), np.zeros(n))
    assert result.p == smallest
    note = f"n = {n}, fewer than 6: no p below 0.05 can occur"
    assert result.note == (note if n < 6 else "")
    assert difference(np.arange(n), np.arange(n)).p == 1


def test_no_images_have_no_difference():
    result = paired.paired_difference(np.ones(0), np.ones(0), [], seed_text=SEED)
    assert (result.mean, result.p, result.n_patients) == (None, None, 0)


def test_a_drawn_sign_flip_p_counts_the_observed_signs():
    (p,) = paired.sign_flip_p(np.ones((1, 40)), SEED, flips=999)
    assert p == pytest.approx(1 / 1000)


def test_many_pairs_equal_single_pairs():
    a, b = np.random.default_rng(0).random((2, 6, 20))
    together = paired.paired_differences(a - b, separate_patients(20), seed_text=SEED)
    assert [result.p for result in together] == [
        difference(*pair).p for pair in zip(a, b, strict=True)
    ]


def test_holm_adjusts_step_by_step():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired.holm([0.02]) == [0.02]
    assert paired.holm([]) == []
