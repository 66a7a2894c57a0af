"""Decisions about the models of a comparison group, and intervals of their ranks.

All pairs of models are compared on the same patients by a sign-flip test of paired differences with
Holm's adjustment over all pairs. A model is tied with the best one unless its adjusted p value is
below 0.05. Ranks have intervals from the bootstrap of the scores: every resample of patients ranks
all models.

Shapes: R models, n images, P patients, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from bench.api import board
from bench.api.board import BEST, TIED, WORSE, Separability, Standing
from bench.api.report import several
from bench.stats import bootstrap
from bench.stats.bootstrap import ROUNDING, by_patient, drawn_patients, expanded_levels
from bench.stats.paired import FLIPS, holm, paired_differences, sign_flip_pairs, smallest_p

ALPHA = 0.05  # family-wise error rate over all pairs
FEWEST_FOR_P = 6  # patients; with fewer, no p value below 0.05 is possible


@dataclass(frozen=True)
class ScoreMatrix:
    """One score of all models of a comparison group.

    Attributes:
        values: (R, n) scores, finite; few-shot scores are averaged over draws.
        patients: the patient of each of the n images.
        seed_text: see `bench.stats.bootstrap.shared_seed`.
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


def pairwise_p(matrix: ScoreMatrix) -> np.ndarray:
    """Return Holm-adjusted p values of all pairs of models, (R, R), 1 on the diagonal."""
    p = sign_flip_pairs(matrix.sums()[0], matrix.seed_text, flips=matrix.flips)
    first, second = np.triu_indices(len(p), k=1)
    p[first, second] = p[second, first] = holm(p[first, second].tolist())
    return p


def can_separate(matrix: ScoreMatrix) -> bool:
    """Return whether a difference can be significant: whether the smallest possible p value is."""
    pairs = len(matrix.values) * (len(matrix.values) - 1) / 2
    return pairs > 0 and smallest_p(matrix.n_patients, flips=matrix.flips) * pairs < ALPHA


def rank_intervals(matrix: ScoreMatrix, *, resamples: int = board.RESAMPLES) -> np.ndarray | None:
    """Return the intervals of the ranks, from ranking all models in every resample of patients.

    The interval covers every rank that tied models share. The quantile levels are those of the
    expanded percentile interval.

    Returns:
        The lowest and the highest rank, (R, 2) int; None with fewer than 5 patients.
    """
    if matrix.n_patients < bootstrap.FEWEST:
        return None
    sums, sizes = matrix.sums()  # (R, P), (P,)
    weights = drawn_patients(len(sizes), resamples, matrix.seed_text)  # (B, P)
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
    matrix: ScoreMatrix, adjusted: np.ndarray, reference: int | None = None
) -> list[Standing]:
    """Return the rank of each model, its difference to the reference, and the decision about it.

    Args:
        matrix: scores of the models.
        adjusted: (R, R) adjusted p values: see `pairwise_p`.
        reference: index of the model with which the others are compared; None for the best.
    """
    if not len(matrix.values):
        return []
    means = matrix.sums()[0].sum(axis=1) / max(len(matrix.patients), 1)  # (R,)
    slack = ROUNDING * max(1.0, float(np.abs(means).max()))
    ranks = (means > means[:, None] + slack).sum(axis=1) + 1
    best = int(means.argmax())
    reference = best if reference is None else reference
    differences = paired_differences(
        np.asarray(matrix.values, dtype=float) - matrix.values[reference],  # (R, n)
        matrix.patients,
        seed_text=matrix.seed_text,
    )
    decides = can_separate(matrix)
    return [
        Standing(
            rank=int(ranks[i]),
            decision=_decision(i == best, float(adjusted[i, best])) if decides else "",
            difference=None if i == reference else differences[i],
            holm_p=None if i == reference else float(adjusted[i, reference]),
        )
        for i in range(len(means))
    ]


def _decision(is_best: bool, adjusted_p: float) -> str:
    if is_best:
        return BEST
    return WORSE if adjusted_p < ALPHA else TIED


def separability(
    matrix: ScoreMatrix, adjusted: np.ndarray, controls: Sequence[bool]
) -> Separability:
    """Return how many pairs of models differ significantly, with a sentence that sums it up.

    Args:
        matrix: scores of the models.
        adjusted: (R, R) adjusted p values: see `pairwise_p`.
        controls: for each model whether it is an untrained control.
    """
    significant = adjusted < ALPHA
    totals = matrix.sums()[0].sum(axis=1)
    trained = [i for i, is_control in enumerate(controls) if not is_control]
    untrained = [i for i, is_control in enumerate(controls) if is_control]
    control_pairs = list(product(untrained, trained))
    worse = [pair for pair in control_pairs if totals[pair[0]] < totals[pair[1]]]
    result = Separability(
        patients=matrix.n_patients,
        models=len(trained),
        pairs=len(trained) * (len(trained) - 1) // 2,
        separated=sum(bool(significant[pair]) for pair in combinations(trained, 2)),
        controls=len(untrained),
        controls_below=len(worse) == len(control_pairs) if control_pairs else None,
        control_pairs=len(control_pairs),
        controls_separated=sum(bool(significant[pair]) for pair in worse),
    )
    sentence = _impossible(matrix)
    if not sentence:
        sentence = _ranking_sentence(result)
        if control_pairs:
            sentence += f"; {_control_sentence(result)}"
    return replace(result, sentence=f"{sentence}.")


def most_models(n_patients: int) -> int:
    """Return the largest number of models of which a pair can differ significantly.

    Args:
        n_patients: at most 16; with more, enough signs are drawn for any number of models.
    """
    pairs = int(ALPHA / smallest_p(n_patients))
    return int((1 + (1 + 8 * pairs) ** 0.5) / 2) if pairs else 1


def _impossible(matrix: ScoreMatrix) -> str:
    """Return why no pair can differ significantly, however large the difference; else ""."""
    models, n_patients = len(matrix.values), matrix.n_patients
    if models < 2:
        return "One model: there is nothing to rank"
    if n_patients < FEWEST_FOR_P:
        return (
            f"Cannot rank: no p value below {ALPHA} is possible with {n_patients} patients; "
            f"at least {FEWEST_FOR_P} are needed"
        )
    if can_separate(matrix):
        return ""
    pairs = models * (models - 1) // 2
    return (
        f"Cannot rank {models} models: the smallest possible p value of {n_patients} patients is "
        f"{smallest_p(n_patients):.2g}, and Holm's adjustment for {pairs} pairs requires "
        f"{ALPHA / pairs:.2g}; show at most {most_models(n_patients)} models together"
    )


def _ranking_sentence(result: Separability) -> str:
    models, patients = several(result.models, "model"), several(result.patients, "patient")
    if result.pairs == 0:
        return f"One model besides untrained controls ({patients})"
    if result.pairs == 1:
        if result.separated:
            return f"Ranks: the {models} differ significantly ({patients})"
        return f"Does not rank: the {models} do not differ significantly ({patients})"
    pairs = f"{result.pairs} pairs of {models}"
    if result.separated == 0:
        return f"Does not rank: none of the {pairs} differs significantly ({patients})"
    if result.separated == result.pairs:
        return f"Ranks: all {pairs} differ significantly ({patients})"
    percent = 100 * result.separated / result.pairs
    return (
        f"Ranks in part: {result.separated} of {pairs} differ significantly "
        f"({percent:.0f} %; {patients})"
    )


def _control_sentence(result: Separability) -> str:
    if result.controls == 1:
        subject = "the untrained control scores"
        if not result.controls_below:
            subject = "the untrained control does not score"
    else:
        subject = f"all {result.controls} untrained controls score"
        if not result.controls_below:
            subject = f"not all {result.controls} untrained controls score"
    return (
        f"{subject} worse than every other model; significantly worse in "
        f"{result.controls_separated} of {result.control_pairs} pairs"
    )
