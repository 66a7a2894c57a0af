"""Tiers, ranks and verdicts: against single comparisons, by hand, and by their definitions."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import board
from bench.stats import bootstrap, paired, tiers
from bench.stats.tiers import ScoreMatrix, compact_letter_display, most_models, separability

SEED = "toy\nimages"


def contest(
    values: np.ndarray, images_each: int = 1, *, lower_is_better: bool = False
) -> ScoreMatrix:
    patients = [f"p{i // images_each:03d}" for i in range(values.shape[1])]
    return ScoreMatrix(values, patients, SEED, lower_is_better)


def apart(models: int, pairs: set[tuple[int, int]]) -> np.ndarray:
    separated = np.zeros((models, models), dtype=bool)
    for i, j in pairs:
        separated[i, j] = separated[j, i] = True
    return separated


@st.composite
def separations(draw: st.DrawFn) -> np.ndarray:
    models = draw(st.integers(1, 12))
    pairs = list(combinations(range(models), 2))
    return apart(models, draw(st.sets(st.sampled_from(pairs)) if pairs else st.just(set())))


def standings(own: ScoreMatrix, reference: int | None = None) -> list[board.Standing]:
    return tiers.standings(own, tiers.pairwise_p(own), reference, resamples=2000)


# ---- letters ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(separations())
def test_models_share_a_letter_exactly_if_they_are_not_separable(separated: np.ndarray):
    own = compact_letter_display(separated)
    assert own[0].startswith("a")
    assert all(own)
    for i, j in combinations(range(len(own)), 2):
        assert bool(set(own[i]) & set(own[j])) == (not separated[i, j])


@settings(deadline=None)
@given(separations())
def test_no_letter_is_of_no_use(separated: np.ndarray):
    own = compact_letter_display(separated)
    names = sorted(set("".join(own)))
    for name in names:
        fewer = [each.replace(name, "") for each in own]
        pairs = combinations(range(len(own)), 2)
        assert not all(fewer) or any(
            not separated[i, j] and not set(fewer[i]) & set(fewer[j]) for i, j in pairs
        )


def test_a_model_between_two_tiers_carries_the_letters_of_both():
    assert compact_letter_display(apart(3, {(0, 2)})) == ["a", "ab", "b"]
    assert compact_letter_display(apart(4, {(0, 2), (0, 3), (1, 3)})) == ["a", "ab", "bc", "c"]


def test_models_that_are_all_alike_or_all_separable_have_one_letter_each():
    assert compact_letter_display(apart(4, set())) == ["a"] * 4
    every = set(combinations(range(30), 2))
    own = compact_letter_display(apart(30, every))
    assert own[:26] == list("abcdefghijklmnopqrstuvwxyz")
    assert own[26:] == ["a₁", "b₁", "c₁", "d₁"]
    assert compact_letter_display(apart(0, set())) == []


def test_letters_of_many_models_without_any_order_are_found_too():
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((40, 40)) < 0.05, k=1)  # millions of maximal groups
    separated = upper | upper.T
    own = compact_letter_display(separated)
    assert len(set("".join(own))) < 60


# ---- pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("patients", [5, 8, 16, 20])
def test_all_pairs_at_once_are_those_of_each_with_holm(patients: int):
    rng = np.random.default_rng(0)
    own = contest(rng.random((5, 2 * patients)) + np.linspace(0.4, 0, 5)[:, None], 2)
    pairs = list(combinations(range(5), 2))
    each = [
        paired.paired_difference(own.values[i], own.values[j], own.patients, seed_text=SEED).p
        for i, j in pairs
    ]
    found = tiers.pairwise_p(own)
    expected = paired.holm([p for p in each if p is not None])
    assert [found[pair] for pair in pairs] == pytest.approx(expected, abs=1e-12)
    assert (found == found.T).all()
    assert (np.diag(found) == 1).all()


def test_a_clear_difference_is_separated_and_none_is_not():
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.01, size=(3, 12)) + np.array([[0.9], [0.9], [0.5]])
    first, second, third = standings(contest(values))
    assert (first.tier, second.tier, third.tier) == ("a", "a", "b")
    assert (first.top, second.top, third.top) == (True, True, False)


def test_the_top_tier_is_the_best_and_all_that_are_not_separable_from_it():
    rng = np.random.default_rng(3)
    own = contest(rng.normal(scale=0.1, size=(8, 20)) + np.linspace(0.3, 0, 8)[:, None])
    means = own.values.mean(axis=1)
    own = replace(own, values=own.values[np.argsort(-means)])
    found = standings(own)
    top = [each.top for each in found]
    assert top == (tiers.pairwise_p(own)[0] > 0.05).tolist()
    assert top == [bool(set(each.tier) & set(found[0].tier)) for each in found]
    assert any(top[1:])
    assert not all(top)


@pytest.mark.parametrize("patients", [1, 4, 5])
def test_below_six_patients_nothing_is_separable(patients: int):
    values = np.arange(3)[::-1, None] + np.zeros((3, patients))
    own = contest(values)
    assert not tiers.can_separate(own)
    assert [(each.tier, each.top) for each in standings(own)] == [("", False)] * 3


@pytest.mark.parametrize(("patients", "most"), [(5, 1), (6, 2), (7, 3), (11, 10), (15, 40)])
def test_few_patients_separate_few_models_and_no_more(patients: int, most: int):
    assert most_models(patients) == most
    for models in range(2, most + 3):
        values = np.arange(models)[::-1, None] + np.zeros((models, patients))
        own = contest(values)
        any_separated = bool((tiers.pairwise_p(own) <= 0.05).any())
        assert any_separated == tiers.can_separate(own) == (models <= most)


def test_enough_signs_are_drawn_for_any_number_of_models():
    for models in (2, 45, 46, 100):
        own = contest(np.zeros((models, 17)))
        assert tiers.can_separate(own)
        assert own.flips >= paired.FLIPS


# ---- ranks -----------------------------------------------------------------------------------


def test_the_rank_interval_is_that_of_resamples_ranked_one_by_one():
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.1, size=(5, 24)) + np.linspace(0.1, 0, 5)[:, None]
    own = contest(values, images_each=2)
    sums = values.reshape(5, 12, 2).sum(axis=2)
    weights = bootstrap.patient_weights(own.patients, 2000, SEED)
    ranks = np.array([np.argsort(np.argsort(-(sums @ each))) + 1 for each in weights])  # (B, R)
    low, high = bootstrap.expanded_levels(12)
    found = tiers.rank_intervals(own, resamples=2000)
    assert found is not None
    np.testing.assert_array_equal(found[:, 0], np.quantile(ranks, low, axis=0, method="lower"))
    np.testing.assert_array_equal(found[:, 1], np.quantile(ranks, high, axis=0, method="higher"))


def test_ranks_turn_round_where_lower_is_better():
    values = np.random.default_rng(0).random((6, 15))
    higher, lower = (
        tiers.rank_intervals(contest(values * sign, lower_is_better=sign < 0)) for sign in (1, -1)
    )
    assert higher is not None
    np.testing.assert_array_equal(higher, lower)
    down = standings(contest(values, lower_is_better=True))
    assert [each.rank for each in down] == [7 - each.rank for each in standings(contest(values))]


def test_models_with_the_same_mean_share_a_rank_and_say_so():
    values = np.random.default_rng(0).random(12)
    found = standings(contest(np.stack([values + 1, values, values, values - 1])))
    assert [each.rank for each in found] == [1, 2, 2, 4]
    assert [each.tied for each in found] == [False, True, True, False]
    assert [(each.rank_low, each.rank_high) for each in found] == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_the_rank_itself_lies_within_its_interval():
    rng = np.random.default_rng(1)
    for patients in (5, 9, 30):
        for each in standings(contest(rng.random((12, patients)))):
            assert each.rank_low is not None
            assert each.rank_high is not None
            assert 1 <= each.rank_low <= each.rank <= each.rank_high <= 12


def test_below_five_patients_there_is_no_interval_of_ranks():
    (best, other) = standings(contest(np.array([[0.9] * 4, [0.1] * 4])))
    assert (best.rank, other.rank) == (1, 2)
    assert best.rank_low is best.rank_high is None


def test_differences_are_those_of_single_comparisons_and_their_p_is_adjusted():
    rng = np.random.default_rng(0)
    own = contest(rng.random((4, 20)))
    found = standings(own, reference=2)
    assert found[2].difference is None
    alone = paired.paired_difference(own.values[0], own.values[2], own.patients, seed_text=SEED)
    difference, p = found[0].difference, found[0].holm_p
    assert difference is not None
    assert difference.mean == pytest.approx(alone.mean)
    assert difference.interval.low == pytest.approx(alone.interval.low)
    assert p is not None
    assert alone.p is not None
    assert p >= alone.p
    assert all(each.difference is None for each in standings(own))


# ---- verdicts --------------------------------------------------------------------------------


def told(own: ScoreMatrix, controls: list[bool] | None = None) -> str:
    return separability(own, tiers.pairwise_p(own), controls or [False] * len(own.values)).sentence


def steps(models: int, patients: int) -> ScoreMatrix:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(models, patients))
    return contest(noise + np.linspace(1, 0, models)[:, None])


def test_a_verdict_tells_how_many_pairs_are_separated():
    assert (
        told(steps(4, 20)) == "Ranks: all 6 pairs of 4 models differ significantly (20 patients)."
    )
    alike = contest(np.random.default_rng(0).random((4, 20)))
    assert told(alike).startswith("Does not rank: none of the 6 pairs")
    values = np.vstack([steps(2, 20).values, steps(2, 20).values])
    partly = "Ranks in part: 4 of 6 pairs of 4 models differ significantly (67"
    assert told(contest(values)).startswith(partly)


def test_a_verdict_says_where_nothing_could_be_found():
    assert told(steps(1, 20)) == "One model: there is nothing to rank."
    assert "no p value below 0.05 is possible with 5 patients" in told(steps(3, 5))
    impossible = told(steps(11, 11))
    assert impossible.startswith(
        "Cannot rank 11 models: the smallest possible p value of 11 patients"
    )
    assert impossible.endswith("show at most 10 models together.")


def test_a_verdict_tells_where_untrained_twins_stand():
    own = steps(4, 20)
    low = separability(own, tiers.pairwise_p(own), [False, False, False, True])
    assert (low.models, low.pairs, low.controls) == (3, 3, 1)
    assert (low.controls_below, low.controls_separated, low.control_pairs) == (True, 3, 3)
    assert (
        "the untrained control scores worse than every other model; significantly worse in 3 of 3"
        in low.sentence
    )
    high = separability(own, tiers.pairwise_p(own), [True, False, False, True])
    assert (high.controls_below, high.controls_separated, high.control_pairs) == (False, 2, 4)
    assert "not all 2 untrained controls score worse" in high.sentence
    none = separability(own, tiers.pairwise_p(own), [False] * 4)
    assert none.controls_below is None
    assert none.share == 1.0
