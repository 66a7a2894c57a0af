"""Whether two boards rank the same models alike: rank correlations with intervals over patients.

Letters: m models, B resamples, n images, P patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.levels import ROUNDING, expanded_levels
from bench.resamples import by_patient, patient_weights
from bench.stats import FEW, FEWEST, RESAMPLES, Interval


@dataclass(frozen=True)
class Concordance:
    """A rank correlation of two boards, in [-1, 1], and its interval."""

    value: float
    interval: Interval


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate the ranks of scores (m, B) and (m, B), ties at their mean: (B,) in [-1, 1].

    0 where one board has all models equal.
    """
    from scipy.stats import rankdata  # half a second, which every list of protocols would pay

    ranks = [rankdata(each, axis=0) - (len(each) + 1) / 2 for each in (a, b)]  # (m, B) each
    return _share((ranks[0] * ranks[1]).sum(0), (ranks[0] ** 2).sum(0), (ranks[1] ** 2).sum(0))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Count the pairs of models that two boards (m, B) order alike, minus the others: (B,).

    As tau-b (Kendall, Biometrika 33, 1945): a share of the pairs that are not tied, in [-1, 1]; 0
    where one board has all models equal.
    """
    first, second = np.triu_indices(len(a), k=1)
    signs = [np.sign(each[first] - each[second]) for each in (a, b)]  # (pairs, B) each
    return _share((signs[0] * signs[1]).sum(0), (signs[0] ** 2).sum(0), (signs[1] ** 2).sum(0))


def concordance(
    correlate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    boards: tuple[np.ndarray, np.ndarray],
    patients: Sequence[str],
    *,
    seed_text: str,
) -> Concordance:
    """Correlate the ranks of the same models on two boards.

    The interval is an expanded percentile interval over resamples of patients, the same for both
    boards: other patients could rank the models otherwise.

    Args:
        correlate: `spearman` or `kendall`.
        boards: scores (m, n) of the same models on the same images, twice.
        patients: of each of the n images.
        seed_text: see `bench.stats.shared_seed`.
    """
    a, b = (_rounded(each.mean(axis=1, keepdims=True)) for each in boards)  # (m, 1) each
    value = float(correlate(a, b)[0])
    n_patients = len(set(patients))
    if n_patients < FEWEST:
        note = f"no interval: n = {n_patients}, fewer than {FEWEST}"
        return Concordance(value, Interval(None, None, "expanded", note))
    weights = patient_weights(patients, RESAMPLES, seed_text)  # (B, P)
    drawn = []
    for board in boards:
        sums, sizes = by_patient(board, patients)  # (m, P), (P,)
        drawn.append(_rounded((sums @ weights.T) / (weights @ sizes)))  # (m, B)
    low, high = np.quantile(correlate(*drawn), expanded_levels(n_patients))
    note = f"unreliable: n = {n_patients}, fewer than {FEW}" if n_patients < FEW else ""
    return Concordance(value, Interval(float(low), float(high), "expanded", note))


def _share(both: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    scale = np.sqrt(a * b)
    return np.where(scale > 0, both / np.where(scale > 0, scale, 1), 0.0)


def _rounded(means: np.ndarray) -> np.ndarray:
    """Make means equal that differ by rounding errors alone, so that they tie."""
    return np.round(means / ROUNDING) * ROUNDING
