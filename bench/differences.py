"""Compare models on the same images: paired differences, a sign-flip test, Holm's adjustment.

Never by overlap of intervals: two models that are scored on the same patients differ by less than
their intervals do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.levels import ROUNDING
from bench.resamples import by_patient, seeded
from bench.stats import Interval, intervals

FLIPS = 20_000
EXACT_UP_TO = 16  # patients whose signs are all tried
FLIPS_AT_ONCE = 2048


@dataclass(frozen=True)
class Difference:
    """Mean difference of two models over the same images.

    Attributes:
        mean: None without images.
        p: two-sided p value of the sign-flip test; None without images.
    """

    mean: float | None
    interval: Interval
    p: float | None
    n_patients: int
    note: str = ""


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    seed_text: str,
) -> Difference:
    """Compare two models on the same images: scores (n,) each; see `paired_differences`."""
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return paired_differences(difference[None], patients, method=method, seed_text=seed_text)[0]


def paired_differences(
    differences: np.ndarray, patients: Sequence[str], *, method: str = "expanded", seed_text: str
) -> list[Difference]:
    """Bound and test the mean of each row of paired differences.

    The test flips the sign of all differences of a patient together: if the models are equally
    good, both signs are as likely. It sums over images, so a patient counts by its number of
    images, as in the mean that the board shows. Exact up to 16 patients, otherwise 20,000 flips.

    Args:
        differences: (R, n) score of one model minus that of the other on each image, a row for each
            pair of models; few-shot scores are averaged over draws first.
        patients: of each of the n images.
    """
    differences = np.asarray(differences, dtype=float)
    bounds = intervals(differences, patients, method=method, seed_text=seed_text)
    sums, sizes = by_patient(differences, patients)  # (R, P), (P,)
    n_patients, n_images = len(sizes), differences.shape[1]
    if n_images == 0:
        return [Difference(None, bound, None, 0, "no images") for bound in bounds]
    few = f"n = {n_patients}, fewer than 6: no p below 0.05 can occur"
    note = few if n_patients < 6 else ""
    return [
        Difference(float(row.sum() / n_images), bound, float(p), n_patients, note)
        for row, bound, p in zip(sums, bounds, sign_flip_p(sums, seed_text), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def sign_flip_p(sums: np.ndarray, seed_text: str, *, flips: int = FLIPS) -> np.ndarray:
    """Test sums of paired differences of each patient against flipped signs.

    Args:
        sums: (R, P), a row for each pair of models.
        flips: how many are drawn where there are more than 16 patients; below, all are tried.

    Returns:
        Two-sided p values (R,).
    """
    bound = np.abs(sums.sum(axis=1)) - ROUNDING * np.abs(sums).sum(axis=1)  # (R,)
    as_extreme = np.zeros(len(sums))
    for signs in _signs(sums.shape[1], flips, seed_text):
        flipped = np.abs(sums @ signs.T)  # (R, flips)
        as_extreme += np.count_nonzero(flipped >= bound[:, None], axis=1)
    return _share(as_extreme, sums.shape[1], flips)


def sign_flip_pairs(sums: np.ndarray, seed_text: str, *, flips: int = FLIPS) -> np.ndarray:
    """Test every two models, as `sign_flip_p` does the sums of their differences.

    Flipping the models' own sums before they are subtracted takes R products instead of one for
    each pair.

    Args:
        sums: (R, P) sums of scores of each patient, a row for each model.

    Returns:
        Two-sided p values (R, R), symmetric, 1 on the diagonal.
    """
    sums = sums - sums.mean(axis=0)  # no difference changes, and rounding errors are smaller
    totals = sums.sum(axis=1)
    slack = ROUNDING * np.abs(sums).sum(axis=1).max(initial=0)
    as_extreme = np.zeros((len(sums), len(sums)))
    for signs in _signs(sums.shape[1], flips, seed_text):
        flipped = sums @ signs.T  # (R, flips)
        for i in range(len(sums) - 1):
            apart = flipped[i + 1 :] - flipped[i]
            bound = np.abs(totals[i + 1 :] - totals[i]) - slack
            extreme = np.abs(apart, out=apart) >= bound[:, None]
            as_extreme[i, i + 1 :] += np.count_nonzero(extreme, axis=1)
    p = _share(as_extreme, sums.shape[1], flips)
    p = np.triu(p, k=1)
    return p + p.T + np.eye(len(p))


def smallest_p(n_patients: int, *, flips: int = FLIPS) -> float:
    """Give the smallest p that the sign-flip test can find with so many patients."""
    return 1 / _patterns(n_patients) if n_patients <= EXACT_UP_TO else 1 / (flips + 1)


def _signs(n_patients: int, flips: int, seed_text: str) -> Iterator[np.ndarray]:
    """Give patterns of signs, (patterns, P) of 1 and -1: all that differ, or drawn ones.

    A pattern and its opposite are as extreme, so the last patient is not flipped in the first case.
    """
    exact = n_patients <= EXACT_UP_TO
    count = _patterns(n_patients) if exact else flips
    generator = seeded(f"flips\n{seed_text}")
    for start in range(0, count, FLIPS_AT_ONCE):
        numbers = np.arange(start, min(start + FLIPS_AT_ONCE, count))
        if exact:
            bits = numbers[:, None] >> np.arange(n_patients) & 1
        else:
            bits = generator.integers(0, 2, size=(len(numbers), n_patients))
        yield 1.0 - 2.0 * bits


def _patterns(n_patients: int) -> int:
    return 2 ** max(n_patients - 1, 0)


def _share(as_extreme: np.ndarray, n_patients: int, flips: int) -> np.ndarray:
    """Turn counts into p; of drawn flips the one that was seen is one (Phipson and Smyth, 2010)."""
    if n_patients <= EXACT_UP_TO:
        return as_extreme / _patterns(n_patients)
    return (as_extreme + 1) / (flips + 1)
