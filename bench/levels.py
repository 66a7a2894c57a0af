"""Which quantiles of resampled means bound a mean: wider than 2.5 % and 97.5 % for few patients.

scipy is imported where it is needed: to import it takes longer than most boards.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
ROUNDING = 1e-12  # sums that differ by less are ties


def expanded_levels(n: float) -> np.ndarray:
    """Give the two quantile levels Phi(-+ sqrt(n / (n - 1)) t_{0.975, n - 1})."""
    from scipy.special import ndtr, stdtrit

    return ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, TAILS))


def effective_size(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Weigh the number of draws D against that of patients P: one effective sample size.

    The variance of the grand mean has a part from the draws (D - 1 degrees of freedom) and one from
    the patients (P - 1); Satterthwaite's formula (Biometrics Bulletin 2:6, 1946) gives the degrees
    of freedom of their sum. In simulation with 5 draws this covers 92 to 96 % whichever part
    dominates, and up to 98 % where neither varies. The smaller of D and P would make intervals up
    to half as wide again, and P alone falls to 85 % where the draws dominate.

    Args:
        sums: (D, P) sums of scores.
        sizes: (P,) numbers of images.
    """
    draws, n_patients = sums.shape
    draw_means = sums.sum(axis=1) / sizes.sum()  # (D,)
    from_draws = draw_means.var(ddof=1) / draws
    residuals = (sums.mean(axis=0) - draw_means.mean() * sizes) / sizes.sum()  # (P,)
    from_patients = (residuals**2).sum() * n_patients / (n_patients - 1)
    scatter = from_draws**2 / (draws - 1) + from_patients**2 / (n_patients - 1)
    return 1 + (from_draws + from_patients) ** 2 / scatter if scatter > 0 else n_patients


def bca_levels(means: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Give the bias-corrected and accelerated quantile levels, (2,).

    Efron, "Better Bootstrap Confidence Intervals", JASA 82, 1987; the acceleration comes from
    leaving out one patient at a time.

    Args:
        means: (B,) of the resamples.
        sums: (P,) sums of scores.
        sizes: (P,) numbers of images.
    """
    from scipy.special import ndtr, ndtri

    beside = means - sums.sum() / sizes.sum()  # (B,)
    below = ((beside < -ROUNDING).mean() + (beside <= ROUNDING).mean()) / 2
    half_a_resample = 0.5 / len(means)
    bias = ndtri(np.clip(below, half_a_resample, 1 - half_a_resample))
    without = (sums.sum() - sums) / (sizes.sum() - sizes)  # (P,)
    pull = without.mean() - without
    scale = 6 * (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (scale if scale > 0 else 1)
    shifted = bias + ndtri(TAILS)
    return ndtr(bias + shifted / (1 - acceleration * shifted))
