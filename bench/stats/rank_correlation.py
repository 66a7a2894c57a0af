"""Rank correlation of two leaderboards of the same models, with intervals over patients.

Shapes: m models, B resamples, n images, P patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.api.board import RESAMPLES, Interval
from bench.stats.bootstrap import (
    FEWEST,
    ROUNDING,
    by_patient,
    drawn_patients,
    expanded_levels,
    note_of,
)


@dataclass(frozen=True)
class Concordance:
    """The rank correlation of two leaderboards, in [-1, 1], and its interval."""

    value: float
    interval: Interval


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rho (B,) of scores (m, B) and (m, B); ties have their mean rank.

    It is 0 if all models of one leaderboard are equal.
    """
    from scipy.stats import rankdata  # its import takes 0.5 s, also for a list of protocols

    ranks = [rankdata(scores, axis=0) - (len(scores) + 1) / 2 for scores in (a, b)]  # 2 x (m, B)
    return _normalised(*ranks)


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b (B,) of scores (m, B) and (m, B) (Biometrika 33, 1945).

    It is 0 if all models of one leaderboard are equal.
    """
    first, second = np.triu_indices(len(a), k=1)
    signs = [np.sign(scores[first] - scores[second]) for scores in (a, b)]  # 2 x (pairs, B)
    return _normalised(*signs)


def concordance(
    correlate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    boards: tuple[np.ndarray, np.ndarray],
    patients: Sequence[str],
    *,
    seed_text: str,
) -> Concordance:
    """Return the rank correlation of the same models on two leaderboards.

    The interval is an expanded percentile interval; both leaderboards use the same resamples of
    patients.

    Args:
        correlate: `spearman` or `kendall`.
        boards: two arrays of scores (m, n), of the same models on the same images.
        patients: the patient of each of the n images.
        seed_text: see `bench.stats.bootstrap.shared_seed`.
    """
    a, b = (_rounded(scores.mean(axis=1, keepdims=True)) for scores in boards)  # (m, 1), (m, 1)
    value = float(correlate(a, b)[0])
    n_patients = len(set(patients))
    note = note_of(n_patients)
    if n_patients < FEWEST:
        return Concordance(value, Interval(None, None, "expanded", note))
    weights = drawn_patients(n_patients, RESAMPLES, seed_text)  # (B, P)
    means = []
    for scores in boards:
        sums, sizes = by_patient(scores, patients)  # (m, P), (P,)
        means.append(_rounded((sums @ weights.T) / (weights @ sizes)))  # (m, B)
    low, high = np.quantile(correlate(*means), expanded_levels(n_patients))
    return Concordance(value, Interval(float(low), float(high), "expanded", note))


def _normalised(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine (B,) of the columns of a and b; 0 if one of them is zero."""
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.where(scale > 0, (a * b).sum(0) / np.where(scale > 0, scale, 1), 0.0)


def _rounded(means: np.ndarray) -> np.ndarray:
    """Round means, so that means that differ by rounding errors tie."""
    return np.round(means / ROUNDING) * ROUNDING
