"""Rank correlations of two leaderboards: manual values, scipy, and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from bench.stats.rank_correlation import concordance, kendall, spearman

PATIENTS = [f"p{number // 2}" for number in range(24)]


def _columns(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_one_swapped_neighbouring_pair_of_four_models() -> None:
    a, b = _columns(0.1, 0.2, 0.3, 0.4), _columns(0.5, 0.7, 0.6, 0.8)
    assert spearman(a, b)[0] == pytest.approx(1 - 6 * 2 / (4 * 15))  # squared gaps: 0 1 1 0
    assert kendall(a, b)[0] == pytest.approx((5 - 1) / 6)
    assert spearman(a, -a)[0] == kendall(a, -a)[0] == pytest.approx(-1)


@given(
    st.integers(2, 9).flatmap(
        lambda m: st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=m, max_size=m)
    )
)
@settings(max_examples=60, deadline=None)
def test_ties_agree_with_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    result = spearman(a[:, None], b[:, None])[0], kendall(a[:, None], b[:, None])[0]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert result == (0, 0)
        return
    assert result[0] == pytest.approx(spearmanr(a, b)[0])
    assert result[1] == pytest.approx(kendalltau(a, b)[0])


def test_many_resamples_equal_single_ones() -> None:
    a, b = np.random.default_rng(0).random((2, 6, 5))
    for correlate in (spearman, kendall):
        alone = [correlate(a[:, [i]], b[:, [i]])[0] for i in range(5)]
        np.testing.assert_allclose(correlate(a, b), alone)


def _board(skill: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return skill[:, None] + noise * np.random.default_rng(seed).normal(size=(len(skill), 24))


def test_clearly_ordered_models_have_an_interval_of_one_point() -> None:
    skill = np.arange(5.0)
    result = concordance(
        kendall, (_board(skill, 0.01, 0), _board(skill, 0.01, 1)), PATIENTS, seed_text="x"
    )
    assert (result.value, result.interval.low, result.interval.high) == (1, 1, 1)
    turned = (_board(skill, 0.01, 0), _board(-skill, 0.01, 1))
    assert concordance(spearman, turned, PATIENTS, seed_text="x").interval.high == -1


def test_equal_models_have_a_wide_and_reproducible_interval() -> None:
    boards = (_board(np.zeros(5), 1, 0), _board(np.zeros(5), 1, 1))
    result = concordance(kendall, boards, PATIENTS, seed_text="x")
    low, high = result.interval.low, result.interval.high
    assert low is not None
    assert high is not None
    assert -1 <= low <= result.value <= high <= 1
    assert high - low > 0.5
    assert result == concordance(kendall, boards, PATIENTS, seed_text="x")


def test_fewer_than_five_patients_have_no_interval() -> None:
    boards = (_board(np.arange(3.0), 0.1, 0), _board(np.arange(3.0), 0.1, 1))
    result = concordance(kendall, boards, ["a", "b", "c", "d"] * 6, seed_text="x")
    assert result.value == 1
    assert result.interval.low is None
    assert "n = 4" in result.interval.note


def test_identical_models_have_a_correlation_of_zero() -> None:
    row = np.random.default_rng(0).random(24)
    board = np.stack([row, row, row])
    result = concordance(kendall, (board, _board(np.arange(3.0), 0, 0)), PATIENTS, seed_text="x")
    assert (result.value, result.interval.low, result.interval.high) == (0, 0, 0)
