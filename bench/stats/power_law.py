"""Fit saturating power laws, s(x) = a - b x^(-c), to many curves at once.

This is the learning curve of Hestness et al., "Deep Learning Scaling is Predictable, Empirically",
arXiv 1712.00409, 2017, with the limit `a` instead of their irreducible error. For a fixed exponent
it is a straight line in x^(-c), whose constrained least squares have a closed form; so a grid
search with successive refinement finds the exponents of all curves together, and cannot diverge.

Shapes: R curves (resamples), K points, X values of x, G exponents of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPONENTS = (0.01, 10.0)  # from almost a logarithm to a step after the first point
TRIED = 33  # exponents per round
ROUNDS = 8  # of refinement, by a factor of 16 each


@dataclass(frozen=True, eq=False)
class Laws:
    """R laws, s(x) = limit - gap (x / smallest)^(-exponent), for x from `smallest` on.

    Attributes:
        smallest: x of the first point.
        limit: (R,) a, in [0, 1].
        gap: (R,) limit minus the first point, b smallest^(-c), at least 0. Unlike b it has the unit
            of a score.
        exponent: (R,) c; meaningless if the gap is 0.
    """

    smallest: float
    limit: np.ndarray
    gap: np.ndarray
    exponent: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return the scores (R, X) at x (X,)."""
        decay = (np.asarray(x) / self.smallest) ** -self.exponent[:, None]  # (R, X)
        return self.limit[:, None] - self.gap[:, None] * decay


def fit_laws(
    x: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    *,
    exponents: tuple[float, float] = EXPONENTS,
) -> Laws:
    """Fit a law to each row of scores by weighted least squares, with 0 <= a <= 1 and b >= 0.

    Args:
        x: (K,) positive, ascending, at least two different values.
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
    decay: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit scores (R, K) = limit - gap * decay (G, R, K); return limits, gaps, errors, (G, R) each.

    Since scores are in [0, 1], the unconstrained line violates at most one of gap >= 0 and
    limit <= 1, and the constrained optimum is the best line on the violated bound.
    """
    centre, mean = decay @ weights, scores @ weights  # (G, R), (R,)
    centred = decay - centre[..., None]  # (G, R, K)
    gap = -((centred * weights) * scores).sum(axis=-1) / (centred**2 @ weights)
    gap = np.maximum(gap, 0)
    limit = mean + gap * centre
    gap_to_one = ((decay * weights) * (1 - scores)).sum(axis=-1) / (decay**2 @ weights)
    gap = np.where(limit > 1, gap_to_one, gap)
    limit = np.minimum(limit, 1)
    error = (scores - limit[..., None] + gap[..., None] * decay) ** 2 @ weights
    return limit, gap, error
