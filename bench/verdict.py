"""Decide whether a data set can rank backbones: how many pairs of models differ significantly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from bench.differences import smallest_p
from bench.sheet import several
from bench.tiers import ALPHA, Contest, can_separate

FEWEST_FOR_P = 6  # patients; with fewer, no p value below 0.05 is possible


@dataclass(frozen=True)
class Verdict:
    """How many pairs of models of a comparison group differ significantly.

    Attributes:
        models: number of models, without untrained controls.
        pairs, separated: number of pairs of these models, and of those that differ significantly.
        twins: number of untrained controls.
        twins_below: whether every control has a worse mean than every other model; None without
            controls.
        twin_pairs, twins_separated: number of pairs of a control and another model, and of those
            in which the control is significantly worse.
        sentence: the result as one sentence.
    """

    patients: int
    models: int
    pairs: int
    separated: int
    twins: int
    twins_below: bool | None
    twin_pairs: int
    twins_separated: int
    sentence: str = ""

    @property
    def share(self) -> float | None:
        """The share of pairs that differ significantly, from 0 to 1; None without pairs."""
        return self.separated / self.pairs if self.pairs else None


def verdict(contest: Contest, adjusted: np.ndarray, twins: Sequence[bool]) -> Verdict:
    """Return how many pairs of models differ significantly, with a sentence that sums it up.

    Args:
        contest: scores of the models.
        adjusted: (R, R) adjusted p values: see `bench.tiers.pairwise_p`.
        twins: for each model whether it is an untrained control.
    """
    significant = adjusted <= ALPHA
    totals = contest.sums()[0].sum(axis=1)
    trained = [i for i, is_control in enumerate(twins) if not is_control]
    controls = [i for i, is_control in enumerate(twins) if is_control]
    control_pairs = list(product(controls, trained))
    worse = [pair for pair in control_pairs if totals[pair[0]] < totals[pair[1]]]
    result = Verdict(
        patients=contest.n_patients,
        models=len(trained),
        pairs=len(trained) * (len(trained) - 1) // 2,
        separated=sum(bool(significant[pair]) for pair in combinations(trained, 2)),
        twins=len(controls),
        twins_below=len(worse) == len(control_pairs) if control_pairs else None,
        twin_pairs=len(control_pairs),
        twins_separated=sum(bool(significant[pair]) for pair in worse),
    )
    sentence = _impossible(contest)
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


def _impossible(contest: Contest) -> str:
    """Return why no pair can differ significantly, however large the difference; else ""."""
    models, n_patients = len(contest.values), contest.n_patients
    if models < 2:
        return "One model: there is nothing to rank"
    if n_patients < FEWEST_FOR_P:
        return (
            f"Cannot rank: no p value below {ALPHA} is possible with {n_patients} patients; "
            f"at least {FEWEST_FOR_P} are needed"
        )
    if can_separate(contest):
        return ""
    pairs = models * (models - 1) // 2
    return (
        f"Cannot rank {models} models: the smallest possible p value of {n_patients} patients is "
        f"{smallest_p(n_patients):.2g}, and Holm's adjustment for {pairs} pairs requires "
        f"{ALPHA / pairs:.2g}; show at most {most_models(n_patients)} models together"
    )


def _ranking_sentence(result: Verdict) -> str:
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


def _control_sentence(result: Verdict) -> str:
    if result.twins == 1:
        subject = "the untrained control scores"
        if not result.twins_below:
            subject = "the untrained control does not score"
    else:
        subject = f"all {result.twins} untrained controls score"
        if not result.twins_below:
            subject = f"not all {result.twins} untrained controls score"
    return (
        f"{subject} worse than every other model; significantly worse in "
        f"{result.twins_separated} of {result.twin_pairs} pairs"
    )
