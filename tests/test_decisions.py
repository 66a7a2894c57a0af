"""Decisions, ranks and separability: single comparisons, manual values, definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bench.api import board
from bench.stats import bootstrap, decisions, paired
from bench.stats.decisions import ScoreMatrix, most_models, separability

SEED = "toy\nimages"


def matrix_of(
    values: np.ndarray, images_per_patient: int = 1, *, lower_is_better: bool = False
) -> ScoreMatrix:
    patients = [f"p{i // images_per_patient:03d}" for i in range(values.shape[1])]
    return ScoreMatrix(values, patients, SEED, lower_is_better)


def standings(matrix: ScoreMatrix, reference: int | None = None) -> list[board.Standing]:
    return decisions.standings(matrix, decisions.pairwise_p(matrix), reference)


# ---- pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("patients", [5, 8, 16, 20])
def test_p_values_of_all_pairs_equal_single_tests_with_holm(patients: int):
    rng = np.random.default_rng(0)
    matrix = matrix_of(rng.random((5, 2 * patients)) + np.linspace(0.4, 0, 5)[:, None], 2)
    pairs = list(combinations(range(5), 2))
    alone = [
        paired.paired_difference(
            matrix.values[i], matrix.values[j], matrix.patients, seed_text=SEED
        )
        for i, j in pairs
    ]
    result = decisions.pairwise_p(matrix)
    expected = paired.holm([test.p for test in alone if test.p is not None])
    assert [result[pair] for pair in pairs] == pytest.approx(expected, abs=1e-12)
    assert (result == result.T).all()
    assert (np.diag(result) == 1).all()


def test_a_row_is_tied_with_the_best_unless_its_adjusted_p_is_below_5_percent():
    rng = np.random.default_rng(3)
    matrix = matrix_of(rng.normal(scale=0.1, size=(8, 20)) + np.linspace(0.3, 0, 8)[:, None])
    best = int(matrix.values.mean(axis=1).argmax())
    p = decisions.pairwise_p(matrix)[best]
    for reference in (None, 5):  # the decision is about the best, whatever the reference
        found = [each.decision for each in standings(matrix, reference)]
        assert found[best] == board.BEST
        assert [each == board.WORSE for each in found] == (p < 0.05).tolist()
        assert set(found) == {board.BEST, board.TIED, board.WORSE}


@pytest.mark.parametrize("patients", [1, 4, 5])
def test_below_six_patients_nothing_is_decided(patients: int):
    values = np.arange(3)[::-1, None] + np.zeros((3, patients))
    matrix = matrix_of(values)
    assert not decisions.can_separate(matrix)
    result = standings(matrix)
    assert [(each.decision, each.rank) for each in result] == [("", 1), ("", 2), ("", 3)]
    assert (decisions.rank_intervals(matrix) is None) == (patients < 5)


@pytest.mark.parametrize(("patients", "most"), [(5, 1), (6, 2), (7, 3), (11, 10), (15, 40)])
def test_few_patients_can_separate_few_models(patients: int, most: int):
    assert most_models(patients) == most
    for models in range(2, most + 3):
        values = np.arange(models)[::-1, None] + np.zeros((models, patients))
        matrix = matrix_of(values)
        any_separated = bool((decisions.pairwise_p(matrix) <= 0.05).any())
        assert any_separated == decisions.can_separate(matrix) == (models <= most)


def test_the_number_of_sign_flips_suffices_for_any_number_of_models():
    for models in (2, 45, 46, 100):
        matrix = matrix_of(np.zeros((models, 17)))
        assert decisions.can_separate(matrix)
        assert matrix.flips >= paired.FLIPS


# ---- ranks -----------------------------------------------------------------------------------


def test_the_rank_interval_equals_a_simple_loop_over_resamples():
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.1, size=(5, 24)) + np.linspace(0.1, 0, 5)[:, None]
    matrix = matrix_of(values, images_per_patient=2)
    sums = values.reshape(5, 12, 2).sum(axis=2)
    weights = bootstrap.drawn_patients(12, 2000, SEED)
    ranks = np.array([np.argsort(np.argsort(-(sums @ each))) + 1 for each in weights])  # (B, R)
    low, high = bootstrap.expanded_levels(12)
    result = decisions.rank_intervals(matrix, resamples=2000)
    assert result is not None
    np.testing.assert_array_equal(result[:, 0], np.quantile(ranks, low, axis=0, method="lower"))
    np.testing.assert_array_equal(result[:, 1], np.quantile(ranks, high, axis=0, method="higher"))


def test_ranks_are_reversed_if_lower_is_better():
    values = np.random.default_rng(0).random((6, 15))
    higher, lower = (
        decisions.rank_intervals(matrix_of(values * sign, lower_is_better=sign < 0))
        for sign in (1, -1)
    )
    assert higher is not None
    np.testing.assert_array_equal(higher, lower)
    down = standings(matrix_of(values, lower_is_better=True))
    assert [each.rank for each in down] == [7 - each.rank for each in standings(matrix_of(values))]


def test_models_with_the_same_mean_share_a_rank_and_its_interval():
    values = np.random.default_rng(0).random(12)
    matrix = matrix_of(np.stack([values + 1, values, values, values - 1]))
    assert [each.rank for each in standings(matrix)] == [1, 2, 2, 4]
    bounds = decisions.rank_intervals(matrix)
    assert bounds is not None
    assert bounds.tolist() == [[1, 1], [2, 3], [2, 3], [4, 4]]


def test_differences_equal_single_comparisons_with_adjusted_p():
    rng = np.random.default_rng(0)
    matrix = matrix_of(rng.random((4, 20)))
    result = standings(matrix, reference=2)
    assert result[2].difference is None
    alone = paired.paired_difference(
        matrix.values[0], matrix.values[2], matrix.patients, seed_text=SEED
    )
    difference, p = result[0].difference, result[0].holm_p
    assert difference is not None
    assert difference.mean == pytest.approx(alone.mean)
    assert difference.interval.low == pytest.approx(alone.interval.low)
    assert p is not None
    assert alone.p is not None
    assert p >= alone.p
    best = int(matrix.values.mean(axis=1).argmax())
    assert [each.difference is None for each in standings(matrix)] == [i == best for i in range(4)]


# ---- separability ----------------------------------------------------------------------------


def separability_of(matrix: ScoreMatrix, *controls: int) -> board.Separability:
    """Return the separability of models; `controls` are the rows of untrained controls."""
    untrained = [row in controls for row in range(len(matrix.values))]
    return separability(matrix, decisions.pairwise_p(matrix), untrained)


def steps(models: int, patients: int) -> ScoreMatrix:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(models, patients))
    return matrix_of(noise + np.linspace(1, 0, models)[:, None])


def test_significant_pairs_are_counted():
    similar = matrix_of(np.random.default_rng(0).random((4, 20)))
    two_equal_pairs = matrix_of(np.vstack([steps(2, 20).values] * 2))
    for matrix, separated, verdict in [
        (steps(4, 20), 6, "Ranks: all 6 pairs"),
        (similar, 0, "Does not rank: none of the 6 pairs"),
        (two_equal_pairs, 4, "Ranks in part: 4 of 6 pairs"),
        (steps(1, 20), 0, "One model"),
        (steps(3, 5), 0, "Cannot rank"),
        (steps(11, 11), 0, "Cannot rank 11 models"),
    ]:
        result = separability_of(matrix)
        models = len(matrix.values)
        assert (result.models, result.pairs) == (models, models * (models - 1) // 2)
        assert result.separated == separated
        assert result.sentence.startswith(verdict)
    assert "5 patients" in separability_of(steps(3, 5)).sentence
    assert "at most 10 models" in separability_of(steps(11, 11)).sentence


def test_untrained_controls_are_compared_with_the_other_models():
    low = separability_of(steps(4, 20), 3)
    assert (low.models, low.pairs, low.controls) == (3, 3, 1)
    assert (low.controls_below, low.controls_separated, low.control_pairs) == (True, 3, 3)
    assert "significantly worse in 3 of 3" in low.sentence
    high = separability_of(steps(4, 20), 0, 3)
    assert (high.controls_below, high.controls_separated, high.control_pairs) == (False, 2, 4)
    assert "not all 2 untrained controls score worse" in high.sentence
    none = separability_of(steps(4, 20))
    assert (none.controls_below, none.share) == (None, 1.0)
