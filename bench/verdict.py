"""Can a data set rank backbones at all? Told from how many pairs of models it separates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from bench.differences import smallest_p
from bench.sheet import several
from bench.tiers import ALPHA, Contest, can_separate

FEWEST_FOR_P = 6  # patients; below, no p under 0.05 can occur


@dataclass(frozen=True)
class Verdict:
    """What a block tells apart.

    Attributes:
        models: how many are compared, untrained twins aside.
        pairs, separated: of these models, and how many of the pairs are separated.
        twins: how many untrained twins there are.
        twins_below: whether each of them has a worse mean than every other model; None without.
        twin_pairs, twins_separated: pairs of a twin and another model, and how many of them are
            separated with the twin below.
        sentence: all of it in one sentence.
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
        """The share of pairs that are separated, from 0 to 1; None without pairs."""
        return self.separated / self.pairs if self.pairs else None


def verdict(contest: Contest, adjusted: np.ndarray, twins: Sequence[bool]) -> Verdict:
    """Judge a block.

    Args:
        adjusted: see `bench.tiers.pairwise_p`.
        twins: which of the models are untrained twins.
    """
    separable = adjusted <= ALPHA
    totals = contest.sums()[0].sum(axis=1)
    others = [i for i, twin in enumerate(twins) if not twin]
    untrained = [i for i, twin in enumerate(twins) if twin]
    across = list(product(untrained, others))
    below = [totals[twin] < totals[other] for twin, other in across]
    apart = [separable[pair] and lower for pair, lower in zip(across, below, strict=True)]
    found = Verdict(
        patients=contest.n_patients,
        models=len(others),
        pairs=len(others) * (len(others) - 1) // 2,
        separated=sum(bool(separable[pair]) for pair in combinations(others, 2)),
        twins=len(untrained),
        twins_below=all(below) if across else None,
        twin_pairs=len(across),
        twins_separated=sum(map(bool, apart)),
    )
    told = _impossible(contest) or _ranking(found) + _twins(found)
    return replace(found, sentence=f"{told}.")


def most_models(n_patients: int) -> int:
    """Give the most models of which a pair can be separable.

    Args:
        n_patients: up to 16: beyond, enough signs are drawn for any number of models.
    """
    pairs = int(ALPHA / smallest_p(n_patients))
    return int((1 + (1 + 8 * pairs) ** 0.5) / 2) if pairs else 1


def _impossible(contest: Contest) -> str:
    """Say why no difference, however large, could be found; "" where one could."""
    models, n_patients = len(contest.values), contest.n_patients
    if models < 2:
        return "One model: there is nothing to rank"
    if n_patients < FEWEST_FOR_P:
        return f"Cannot rank: {n_patients} patients, and below 6 no p under 0.05 can occur"
    if can_separate(contest):
        return ""
    pairs = models * (models - 1) // 2
    return (
        f"Cannot rank {models} models: no p of {n_patients} patients is below "
        f"{smallest_p(n_patients):.2g}, and Holm asks the first of {pairs} pairs for "
        f"{ALPHA / pairs:.2g}; show at most {most_models(n_patients)} models together"
    )


def _ranking(found: Verdict) -> str:
    models, patients = several(found.models, "model"), several(found.patients, "patient")
    if not found.pairs:
        return f"One model beside untrained twins ({patients})"
    if not found.separated:
        if found.pairs == 1:
            return f"Does not rank: the {models} are not separated ({patients})"
        return f"Does not rank: none of the {found.pairs} pairs of {models} separated ({patients})"
    if found.separated == found.pairs:
        pairs = "both" if found.pairs == 1 else f"all {found.pairs} pairs of"
        return f"Ranks: {pairs} {models} separated ({patients})"
    part = f"{found.separated} of {found.pairs} pairs of {models} separated"
    return f"Ranks in part: {part} ({100 * found.separated / found.pairs:.0f} %; {patients})"


def _twins(found: Verdict) -> str:
    if not found.twin_pairs:
        return ""
    one = found.twins == 1
    who = "the untrained twin" if one else f"the {found.twins} untrained twins"
    stand = "stands" if one else "stand"
    if not found.twins_below:
        stand = "does not stand" if one else "do not all stand"
    return (
        f"; {who} {stand} below all others, and in {found.twins_separated} of {found.twin_pairs} "
        "pairs below and separated"
    )
