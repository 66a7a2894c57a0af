"""Saturating power laws, s(x) = a - b x^(-c), fitted to many curves at once.

The law of learning curves of Hestness et al., "Deep Learning Scaling is Predictable, Empirically",
arXiv 1712.00409, 2017, with the limit `a` in their irreducible error's place. For a fixed exponent
it is a straight line in x^(-c), whose constrained least squares have a closed form; so the exponent
is searched for on a grid that closes in, for all curves together, and no optimiser can fail.

Letters: R curves (resamples), K points, X places, G exponents tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPONENTS = (0.01, 10.0)  # from almost a logarithm to a step after the first point
TRIED = 33  # exponents in a round
ROUNDS = 8  # each is 16 times finer


@dataclass(frozen=True, eq=False)
class Laws:
    """R laws, s(x) = limit - gap (x / smallest)^(-exponent), for x from `smallest` on.

    Attributes:
        smallest: x of the first point.
        limit: (R,) a, in [0, 1].
        gap: (R,) from the first point to the limit, b smallest^(-c), at least 0. Unlike b it has
            the unit of a score, whatever that of x is.
        exponent: (R,) c; of no meaning where the gap is 0.
    """

    smallest: float
    limit: np.ndarray
    gap: np.ndarray
    exponent: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Give the scores (R, X) at places (X,)."""
        closed = (np.asarray(x) / self.smallest) ** -self.exponent[:, None]  # (R, X)
        return self.limit[:, None] - self.gap[:, None] * closed


def fit_laws(
    x: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    *,
    exponents: tuple[float, float] = EXPONENTS,
) -> Laws:
    """Fit a law to each row of scores by weighted least squares, 0 <= a <= 1 and b >= 0.

    Args:
        x: (K,) positive, smallest first, at least two of them different.
        scores: (R, K) in [0, 1].
        weights: (K,) positive.
        exponents: the range of c; two equal numbers fix it.
    """
    assert ((scores >= 0) & (scores <= 1)).all()
    weights = weights / weights.sum()
    growth = np.log(x / x[0])  # (K,)
    low, high = (np.full(len(scores), np.log(end)) for end in exponents)  # (R,), (R,)
    rows = np.arange(len(scores))
    for _ in range(ROUNDS):
        tried = np.linspace(low, high, TRIED)  # (G, R)
        *_, error = _lines(np.exp(-np.exp(tried)[..., None] * growth), scores, weights)  # (G, R)
        best = error.argmin(axis=0)  # (R,)
        low = tried[np.maximum(best - 1, 0), rows]
        high = tried[np.minimum(best + 1, TRIED - 1), rows]
    exponent = np.exp((low + high) / 2)  # (R,)
    limit, gap, _ = _lines(np.exp(-exponent[None, :, None] * growth), scores, weights)  # (1, R)
    return Laws(float(x[0]), limit[0], gap[0], exponent)


def _lines(
    closed: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit scores (R, K) = limit - gap * closed (G, R, K): limits, gaps and errors, (G, R) each.

    As scores are in [0, 1], the free line breaks at most one of gap >= 0 and limit <= 1, and no
    other bound is reached but together with the first; so the best line on that bound is the best.
    """
    centre, mean = closed @ weights, scores @ weights  # (G, R), (R,)
    apart = closed - centre[..., None]  # (G, R, K)
    gap = -((apart * weights) * scores).sum(axis=-1) / (apart**2 @ weights)
    gap = np.maximum(gap, 0)
    limit = mean + gap * centre
    to_one = ((closed * weights) * (1 - scores)).sum(axis=-1) / (closed**2 @ weights)
    gap = np.where(limit > 1, to_one, gap)
    limit = np.minimum(limit, 1)
    error = (scores - limit[..., None] + gap[..., None] * closed) ** 2 @ weights
    return limit, gap, error
