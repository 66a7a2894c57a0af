"""Simulated coverage of nominal 95 % intervals, and error rates of the tests."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import board
from bench.stats import bootstrap, decisions, paired

pytestmark = pytest.mark.slow

EXPERIMENTS = 2000
RESAMPLES = 2000


def clustered(sizes: list[int], icc: float, seed: int) -> tuple[np.ndarray, list[str]]:
    """Draw scores of mean 0 and variance 1, (experiments, images); `icc` is shared in a patient."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(sizes)), sizes)
    patients = rng.normal(scale=icc**0.5, size=(EXPERIMENTS, len(sizes)))
    images = rng.normal(scale=(1 - icc) ** 0.5, size=(EXPERIMENTS, len(which)))
    return patients[:, which] + images, [f"{i:03d}" for i in which]


def share_covering_zero(intervals: list[board.Interval]) -> float:
    bounds = np.array([(interval.low, interval.high) for interval in intervals], dtype=float)
    return float(((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean())


def coverage(values: np.ndarray, patients: list[str], method: str) -> float:
    results = bootstrap.intervals(
        values, patients, method=method, resamples=RESAMPLES, seed_text="simulated"
    )
    return share_covering_zero(results)


@pytest.mark.parametrize("sizes", [[3] * 11, [1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7]])
def test_the_default_covers_where_resampling_images_does_not(sizes: list[int]):
    values, patients = clustered(sizes, icc=0.3, seed=1)
    images = [str(i) for i in range(len(patients))]
    assert 0.93 <= coverage(values, patients, "expanded") <= 0.97
    assert coverage(values, patients, "percentile") < 0.93
    assert coverage(values, images, "percentile") < 0.88


@pytest.mark.parametrize("n", [5, 15])
def test_the_default_covers_few_patients_better_than_the_plain_percentile(n: int):
    values, patients = clustered([1] * n, icc=0, seed=2)
    plain, expanded = (coverage(values, patients, method) for method in ("percentile", "expanded"))
    assert 0.90 <= expanded <= 0.97
    assert plain < expanded


def grids(of_draws: float, of_patients: float, patients: int) -> np.ndarray:
    """Draw few-shot scores of mean 0: (experiments, 5 draws, 3 images of each patient)."""
    rng = np.random.default_rng(3)
    draws = rng.normal(scale=of_draws, size=(500, 5, 1))
    effects = rng.normal(scale=of_patients, size=(500, 1, patients)).repeat(3, axis=2)
    return draws + effects + rng.normal(scale=0.5, size=(500, 5, 3 * patients))


@pytest.mark.parametrize("of_draws", [0.0, 1.0])
@pytest.mark.parametrize("of_patients", [0.3, 1.0])
def test_the_crossed_interval_covers_whichever_part_varies_more(
    of_draws: float, of_patients: float
):
    values = grids(of_draws, of_patients, 11)
    patients = [f"{i:03d}" for i in range(11) for _ in range(3)]
    results = bootstrap.intervals(values, patients, resamples=1000, seed_text="simulated")
    assert 0.90 <= share_covering_zero(results) <= 0.99


@pytest.mark.parametrize("sizes", [[3] * 11, [1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7], [1] * 30])
def test_the_paired_test_rejects_equal_models_in_5_percent(sizes: list[int]):
    values, patients = clustered(sizes, icc=0.3, seed=4)
    results = paired.paired_differences(values, patients, seed_text="simulated")
    rate = np.mean([each.p is not None and each.p <= 0.05 for each in results])
    assert 0.035 <= rate <= 0.065


def matrices(sizes: list[int], gap: float, seed: int) -> list[decisions.ScoreMatrix]:
    """Draw 400 score matrices of five models with true means `gap` apart, best first."""
    values, patients = clustered(sizes, icc=0.3, seed=seed)  # (2000, images)
    return [
        decisions.ScoreMatrix(five - gap * np.arange(5)[:, None], patients, "simulated")
        for five in values.reshape(EXPERIMENTS // 5, 5, -1)
    ]


@pytest.mark.parametrize("sizes", [[3] * 8, [1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7], [1] * 20])
def test_the_familywise_error_of_five_equal_models_is_at_most_5_percent(sizes: list[int]):
    errors = [
        (decisions.pairwise_p(each) <= decisions.ALPHA).any()
        for each in matrices(sizes, gap=0, seed=6)
    ]
    binomial = 2.5 * (0.05 * 0.95 / len(errors)) ** 0.5
    assert np.mean(errors) <= 0.05 + binomial


@pytest.mark.parametrize("sizes", [[3] * 6, [3] * 11, [1] * 30])
def test_rank_intervals_cover_the_true_rank(sizes: list[int]):
    results = [
        decisions.rank_intervals(each, resamples=1000) for each in matrices(sizes, 0.3, seed=7)
    ]
    bounds = np.stack([each for each in results if each is not None])  # (400, 5, 2)
    true = np.arange(1, 6)
    covers = (bounds[..., 0] <= true) & (true <= bounds[..., 1])
    assert (covers.mean(axis=0) >= 0.94).all()
    assert (bounds[..., 1] - bounds[..., 0]).mean() < 4  # narrower than all ranks
