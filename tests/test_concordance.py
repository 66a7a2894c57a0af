"""Rank correlations of two boards: by hand, by scipy, and their intervals."""

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


def test_four_models_with_one_neighbouring_pair_swapped_by_hand() -> None:
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
def test_ties_are_counted_as_scipy_counts_them(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    found = spearman(a[:, None], b[:, None])[0], kendall(a[:, None], b[:, None])[0]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found == (0, 0)
        return
    assert found[0] == pytest.approx(spearmanr(a, b)[0])
    assert found[1] == pytest.approx(kendalltau(a, b)[0])


def test_all_resamples_at_once_are_those_of_each() -> None:
    a, b = np.random.default_rng(0).random((2, 6, 5))
    for correlate in (spearman, kendall):
        alone = [correlate(a[:, [i]], b[:, [i]])[0] for i in range(5)]
        np.testing.assert_allclose(correlate(a, b), alone)


def _board(skill: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return skill[:, None] + noise * np.random.default_rng(seed).normal(size=(len(skill), 24))


def test_boards_that_patients_cannot_reorder_have_the_interval_of_one_point() -> None:
    skill = np.arange(5.0)
    found = concordance(
        kendall, (_board(skill, 0.01, 0), _board(skill, 0.01, 1)), PATIENTS, seed_text="x"
    )
    assert (found.value, found.interval.low, found.interval.high) == (1, 1, 1)
    turned = (_board(skill, 0.01, 0), _board(-skill, 0.01, 1))
    assert concordance(spearman, turned, PATIENTS, seed_text="x").interval.high == -1


def test_models_that_do_not_differ_have_a_wide_interval_and_the_same_each_time() -> None:
    boards = (_board(np.zeros(5), 1, 0), _board(np.zeros(5), 1, 1))
    found = concordance(kendall, boards, PATIENTS, seed_text="x")
    low, high = found.interval.low, found.interval.high
    assert low is not None
    assert high is not None
    assert -1 <= low <= found.value <= high <= 1
    assert high - low > 0.5
    assert found == concordance(kendall, boards, PATIENTS, seed_text="x")


def test_too_few_patients_give_no_interval() -> None:
    boards = (_board(np.arange(3.0), 0.1, 0), _board(np.arange(3.0), 0.1, 1))
    found = concordance(kendall, boards, ["a", "b", "c", "d"] * 6, seed_text="x")
    assert found.value == 1
    assert found.interval.low is None
    assert "n = 4" in found.interval.note


def test_equal_models_tie_whatever_the_order_of_their_sums() -> None:
    row = np.random.default_rng(0).random(24)
    board = np.stack([row, row, row])
    found = concordance(kendall, (board, _board(np.arange(3.0), 0, 0)), PATIENTS, seed_text="x")
    assert (found.value, found.interval.low, found.interval.high) == (0, 0, 0)
