"""Paired comparison of models on the same images: differences, sign-flip test, Holm's adjustment.

Overlap of confidence intervals is no test: the difference of two models on the same patients is
known more precisely than the score of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.api.board import Difference
from bench.api.seeds import generator_of
from bench.stats.bootstrap import ROUNDING, by_patient, intervals

FLIPS = 20_000
EXACT_UP_TO = 16  # patients; up to this number the test enumerates all sign patterns
FLIPS_AT_ONCE = 2048


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
    """Return the mean, interval and p value of each row of paired differences.

    The test flips the sign of all differences of a patient together: under the null hypothesis both
    signs are equally likely. It sums over images, so a patient is weighted by its number of images,
    as in the mean score. The test is exact up to 16 patients; beyond it draws 20,000 sign patterns.

    Args:
        differences: (R, n) score of one model minus that of the other on each image, one row per
            pair of models; average few-shot scores over draws first.
        patients: the patient of each of the n images.
    """
    differences = np.asarray(differences, dtype=float)
    bounds = intervals(differences, patients, method=method, seed_text=seed_text)
    sums, sizes = by_patient(differences, patients)  # (R, P), (P,)
    n_patients, n_images = len(sizes), differences.shape[1]
    if n_images == 0:
        return [Difference(None, bound, None, 0, "no images") for bound in bounds]
    note = f"n = {n_patients}, fewer than 6: no p below 0.05 can occur" if n_patients < 6 else ""
    return [
        Difference(float(row.sum() / n_images), bound, float(p), n_patients, note)
        for row, bound, p in zip(sums, bounds, sign_flip_p(sums, seed_text), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p values (Scandinavian Journal of Statistics 6, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def sign_flip_p(sums: np.ndarray, seed_text: str, *, flips: int = FLIPS) -> np.ndarray:
    """Return the two-sided p values (R,) of the sign-flip test.

    Args:
        sums: (R, P) sums of paired differences of each patient, one row per pair of models.
        flips: number of sign patterns drawn with more than 16 patients; with fewer the test
            enumerates all patterns.
    """
    bound = np.abs(sums.sum(axis=1)) - ROUNDING * np.abs(sums).sum(axis=1)  # (R,)
    as_extreme = np.zeros(len(sums))
    for signs in _signs(sums.shape[1], flips, seed_text):
        flipped = np.abs(sums @ signs.T)  # (R, flips)
        as_extreme += np.count_nonzero(flipped >= bound[:, None], axis=1)
    return _p_values(as_extreme, sums.shape[1], flips)


def sign_flip_pairs(sums: np.ndarray, seed_text: str, *, flips: int = FLIPS) -> np.ndarray:
    """Test all pairs of models, as `sign_flip_p` does.

    Flipping the sums of the models before the subtraction takes R matrix products instead of one
    per pair.

    Args:
        sums: (R, P) sums of scores of each patient, one row per model.

    Returns:
        Two-sided p values (R, R), symmetric, 1 on the diagonal.
    """
    sums = sums - sums.mean(axis=0)  # reduces rounding errors; differences stay the same
    totals = sums.sum(axis=1)
    slack = ROUNDING * np.abs(sums).sum(axis=1).max(initial=0)
    as_extreme = np.zeros((len(sums), len(sums)))
    for signs in _signs(sums.shape[1], flips, seed_text):
        flipped = sums @ signs.T  # (R, flips)
        for i in range(len(sums) - 1):
            gaps = flipped[i + 1 :] - flipped[i]
            bound = np.abs(totals[i + 1 :] - totals[i]) - slack
            extreme = np.abs(gaps, out=gaps) >= bound[:, None]
            as_extreme[i, i + 1 :] += np.count_nonzero(extreme, axis=1)
    p = np.triu(_p_values(as_extreme, sums.shape[1], flips), k=1)
    return p + p.T + np.eye(len(p))


def smallest_p(n_patients: int, *, flips: int = FLIPS) -> float:
    """Return the smallest p value that the sign-flip test of `n_patients` can have."""
    return 1 / _patterns(n_patients) if n_patients <= EXACT_UP_TO else 1 / (flips + 1)


def _signs(n_patients: int, flips: int, seed_text: str) -> Iterator[np.ndarray]:
    """Yield batches (n, P) of sign patterns of 1 and -1: all distinct ones, or random ones.

    A pattern and its negation are equally extreme, so the enumeration never flips the last patient.
    """
    exact = n_patients <= EXACT_UP_TO
    count = _patterns(n_patients) if exact else flips
    generator = generator_of(f"flips\n{seed_text}")
    for start in range(0, count, FLIPS_AT_ONCE):
        numbers = np.arange(start, min(start + FLIPS_AT_ONCE, count))
        if exact:
            bits = numbers[:, None] >> np.arange(n_patients) & 1
        else:
            bits = generator.integers(0, 2, size=(len(numbers), n_patients))
        yield 1.0 - 2.0 * bits


def _patterns(n_patients: int) -> int:
    return 2 ** max(n_patients - 1, 0)


def _p_values(as_extreme: np.ndarray, n_patients: int, flips: int) -> np.ndarray:
    """Turn counts into p values.

    Random patterns are counted together with the observed one (Phipson and Smyth, "Permutation
    P-values Should Never Be Zero", 2010).
    """
    if n_patients <= EXACT_UP_TO:
        return as_extreme / _patterns(n_patients)
    return (as_extreme + 1) / (flips + 1)
