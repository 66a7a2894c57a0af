"""Tiers and ranks of the models of a block: what may be said of one score, and what may not.

All pairs of models are tested on the same patients by flipping the signs of paired differences,
Holm's adjustment is taken over all of them, and models that are not separable share a letter. The
rank of a model is bounded by the bootstrap that also gives the intervals: every resample of
patients ranks all models. In comments, R models are scored on n images of P patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import stats
from bench.differences import (
    FLIPS,
    Difference,
    holm,
    paired_differences,
    sign_flip_pairs,
    smallest_p,
)
from bench.letters import letters
from bench.levels import ROUNDING, expanded_levels
from bench.resamples import by_patient, drawn_patients

ALPHA = 0.05  # of all pairs together


@dataclass(frozen=True)
class Contest:
    """One score of all models of a block.

    Attributes:
        values: (R, n) scores, finite; few-shot scores are averaged over draws.
        patients: of each of the n images.
        seed_text: see `bench.stats.shared_seed`.
        lower_is_better: as for distances.
    """

    values: np.ndarray
    patients: Sequence[str]
    seed_text: str
    lower_is_better: bool = False

    @property
    def n_patients(self) -> int:
        """The number of patients, P."""
        return len(set(self.patients))

    @property
    def flips(self) -> int:
        """Sign flips to draw: enough that Holm's first step can be passed."""
        models = len(self.values)
        return max(FLIPS, int(models * (models - 1) / 2 / ALPHA))

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum the scores of each patient, higher being better: (R, P); count its images: (P,)."""
        sign = -1.0 if self.lower_is_better else 1.0
        return by_patient(sign * np.asarray(self.values, dtype=float), self.patients)


@dataclass(frozen=True)
class Standing:
    """What a board says of a model beside its scores.

    Attributes:
        tier: its letters; a model with which it shares one is not separable from it. "" where no
            pair of the contest is separable: one letter for all would look like a result.
        top: whether it is the best model or not separable from it, and another one is; every
            output shows these in bold and no others.
        rank: 1 is the best mean; models with the same mean have the same rank.
        tied: whether another model has the same mean.
        rank_low, rank_high: 95 % interval of the rank, paired by patient; None below 5 patients.
        difference: its score minus that of the reference; None for the reference itself.
        holm_p: p of that difference, adjusted for all pairs.
    """

    tier: str
    top: bool
    rank: int
    tied: bool
    rank_low: int | None
    rank_high: int | None
    difference: Difference | None
    holm_p: float | None


def pairwise_p(contest: Contest) -> np.ndarray:
    """Test all pairs of models: p values adjusted by Holm, (R, R), 1 on the diagonal."""
    p = sign_flip_pairs(contest.sums()[0], contest.seed_text, flips=contest.flips).copy()
    first, second = np.triu_indices(len(p), k=1)
    p[first, second] = p[second, first] = holm(p[first, second].tolist())
    return p


def can_separate(contest: Contest) -> bool:
    """Tell whether any pair could be separable, however different: p has a smallest value."""
    pairs = len(contest.values) * (len(contest.values) - 1) / 2
    return smallest_p(contest.n_patients, flips=contest.flips) * pairs <= ALPHA


def rank_intervals(contest: Contest, *, resamples: int = stats.RESAMPLES) -> np.ndarray | None:
    """Bound the rank of each model by ranking all of them in every resample of patients.

    Where means are equal within a resample, a model may have any of the ranks that they share. The
    quantile levels are those of the expanded percentile interval.

    Returns:
        The lowest and the highest rank, (R, 2) int; None below 5 patients.
    """
    if contest.n_patients < stats.FEWEST:
        return None
    return _rank_bounds(*contest.sums(), resamples, contest.seed_text).astype(int)


def _rank_bounds(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed_text: str) -> np.ndarray:
    """Bound the ranks of models by their sums (R, P) and the sizes (P,) of patients: (R, 2)."""
    weights = drawn_patients(len(sizes), resamples, seed_text)  # (B, P)
    means = (sums @ weights.T) / (weights @ sizes)  # (R, B)
    slack = ROUNDING * max(1.0, float(np.abs(means).max(initial=0)))
    low, high = expanded_levels(len(sizes))
    bounds = []
    for own in means:
        better = np.count_nonzero(means > own + slack, axis=0)  # (B,)
        no_worse = np.count_nonzero(means >= own - slack, axis=0)  # (B,), the model itself too
        first = np.quantile(better + 1, low, method="lower")
        bounds.append((first, np.quantile(no_worse, high, method="higher")))
    return np.array(bounds, dtype=float).reshape(-1, 2)


def standings(
    contest: Contest, adjusted: np.ndarray, reference: int | None, *, resamples: int
) -> list[Standing]:
    """Say where each model stands.

    Args:
        contest: models in the order of the board, best first.
        adjusted: see `pairwise_p`.
        reference: the number of the model that the others are compared with; None: with none.
    """
    if not len(contest.values):
        return []
    means = contest.sums()[0].sum(axis=1) / max(len(contest.patients), 1)  # (R,)
    slack = ROUNDING * max(1.0, float(np.abs(means).max()))
    ranks = (means > means[:, None] + slack).sum(axis=1) + 1
    tied = (np.abs(means - means[:, None]) <= slack).sum(axis=1) > 1
    bounds = rank_intervals(contest, resamples=resamples)
    separable = adjusted <= ALPHA
    tiers = letters(separable) if separable.any() else [""] * len(means)
    best = int(means.argmax())
    against = _differences(contest, reference)
    return [
        Standing(
            tier=tiers[i],
            top=bool(tiers[i]) and not separable[best, i],
            rank=int(ranks[i]),
            tied=bool(tied[i]),
            rank_low=None if bounds is None else int(bounds[i, 0]),
            rank_high=None if bounds is None else int(bounds[i, 1]),
            difference=against[i],
            holm_p=None if against[i] is None else float(adjusted[i, reference]),
        )
        for i in range(len(means))
    ]


def _differences(contest: Contest, reference: int | None) -> list[Difference | None]:
    if reference is None:
        return [None] * len(contest.values)
    minus = np.asarray(contest.values, dtype=float) - contest.values[reference]  # (R, n)
    found = paired_differences(minus, contest.patients, seed_text=contest.seed_text)
    return [None if i == reference else each for i, each in enumerate(found)]
