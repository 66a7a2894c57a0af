"""Significance groups and rank intervals of the models of a comparison group.

All pairs of models are compared on the same patients by a sign-flip test of paired differences with
Holm's adjustment over all pairs; models that do not differ significantly share a letter. Ranks have
intervals from the bootstrap of the scores: every resample of patients ranks all models.

Shapes: R models, n images, P patients, B resamples.
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

ALPHA = 0.05  # family-wise error rate over all pairs


@dataclass(frozen=True)
class Contest:
    """One score of all models of a comparison group.

    Attributes:
        values: (R, n) scores, finite; few-shot scores are averaged over draws.
        patients: the patient of each of the n images.
        seed_text: see `bench.stats.shared_seed`.
        lower_is_better: true for distances.
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
        """The number of sign flips: enough for a p value that passes Holm's first step."""
        models = len(self.values)
        return max(FLIPS, int(models * (models - 1) / 2 / ALPHA))

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums (R, P) by patient, higher is better, and the numbers of images (P,)."""
        sign = -1.0 if self.lower_is_better else 1.0
        return by_patient(sign * np.asarray(self.values, dtype=float), self.patients)


@dataclass(frozen=True)
class Standing:
    """The significance group and rank of a model.

    Attributes:
        tier: its letters in the compact letter display: models that share one do not differ
            significantly. "" if no pair differs: one letter for all would look like a result.
        top: whether the model is the best or does not differ significantly from it, while another
            model does; every output prints exactly these in bold.
        rank: 1 is the best mean; models with the same mean have the same rank.
        tied: whether another model has the same mean.
        rank_low, rank_high: 95 % interval of the rank, paired by patient; None below 5 patients.
        difference: its score minus that of the reference; None for the reference itself.
        holm_p: p value of that difference, adjusted for all pairs.
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
    """Return Holm-adjusted p values of all pairs of models, (R, R), 1 on the diagonal."""
    p = sign_flip_pairs(contest.sums()[0], contest.seed_text, flips=contest.flips)
    first, second = np.triu_indices(len(p), k=1)
    p[first, second] = p[second, first] = holm(p[first, second].tolist())
    return p


def can_separate(contest: Contest) -> bool:
    """Return whether the smallest possible p value of the sign-flip test would be significant."""
    pairs = len(contest.values) * (len(contest.values) - 1) / 2
    return smallest_p(contest.n_patients, flips=contest.flips) * pairs <= ALPHA


def rank_intervals(contest: Contest, *, resamples: int = stats.RESAMPLES) -> np.ndarray | None:
    """Return the intervals of the ranks, from ranking all models in every resample of patients.

    The interval covers every rank that tied models share. The quantile levels are those of the
    expanded percentile interval.

    Returns:
        The lowest and the highest rank, (R, 2) int; None with fewer than 5 patients.
    """
    if contest.n_patients < stats.FEWEST:
        return None
    sums, sizes = contest.sums()  # (R, P), (P,)
    weights = drawn_patients(len(sizes), resamples, contest.seed_text)  # (B, P)
    means = (sums @ weights.T) / (weights @ sizes)  # (R, B)
    slack = ROUNDING * max(1.0, float(np.abs(means).max(initial=0)))
    low, high = expanded_levels(len(sizes))
    bounds = np.empty((len(means), 2), dtype=int)
    for row, row_means in enumerate(means):
        better = np.count_nonzero(means > row_means + slack, axis=0)  # (B,)
        no_worse = np.count_nonzero(means >= row_means - slack, axis=0)  # (B,), including itself
        bounds[row, 0] = np.quantile(better + 1, low, method="lower")
        bounds[row, 1] = np.quantile(no_worse, high, method="higher")
    return bounds


def standings(
    contest: Contest, adjusted: np.ndarray, reference: int | None, *, resamples: int
) -> list[Standing]:
    """Return the significance group and rank of each model.

    Args:
        contest: scores of the models, best model first.
        adjusted: (R, R) adjusted p values: see `pairwise_p`.
        reference: index of the model with which the others are compared, or None.
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
    differences = _differences(contest, reference)
    return [
        Standing(
            tier=tiers[i],
            top=bool(tiers[i]) and not separable[best, i],
            rank=int(ranks[i]),
            tied=bool(tied[i]),
            rank_low=None if bounds is None else int(bounds[i, 0]),
            rank_high=None if bounds is None else int(bounds[i, 1]),
            difference=differences[i],
            holm_p=None if differences[i] is None else float(adjusted[i, reference]),
        )
        for i in range(len(means))
    ]


def _differences(contest: Contest, reference: int | None) -> list[Difference | None]:
    if reference is None:
        return [None] * len(contest.values)
    values = np.asarray(contest.values, dtype=float) - contest.values[reference]  # (R, n)
    differences: list[Difference | None] = [
        *paired_differences(values, contest.patients, seed_text=contest.seed_text)
    ]
    differences[reference] = None
    return differences
