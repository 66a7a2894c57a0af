"""Label efficiency, without a law: the area under a curve, and the labels that a score takes.

Between measured points a curve is straight in log x; beyond them nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import stats
from bench.curves import Curve, Point, levels, ordered, resampled
from bench.errors import BenchError
from bench.levels import ROUNDING


@dataclass(frozen=True)
class Needed:
    """The smallest x at which a curve reaches a score.

    Attributes:
        target: the score.
        x: None where the largest measured x does not reach it; the smallest measured x where that
            does already.
        low, high: of the 95 % interval; None beyond the largest measured x, or without an interval.
        smallest, largest: measured x.
        note: why there is no interval, or why to distrust it.
    """

    target: float
    x: float | None
    low: float | None
    high: float | None
    smallest: float
    largest: float
    note: str

    @property
    def text(self) -> str:
        """The answer in words, for example "12.3 (8 to > 64)"."""
        known = self._word(self.x)
        if self.note.startswith("no interval"):
            return known
        low, high = self._word(self.low), self._word(self.high)
        return f"{known} ({low} to {high})" if low != high else f"{known} ({low})"

    def _word(self, x: float | None) -> str:
        if x is None:
            return f"> {_number(self.largest)}"
        return ("<= " if x <= self.smallest else "") + _number(x)


def area_scores(points: Sequence[Point]) -> np.ndarray:
    """Give each image's area under its own score against log2(x), divided by the range of log2(x).

    The mean over images is the area under the curve of means, so two curves of the same images are
    compared as two runs are, by the paired differences of these.

    Returns:
        (n,), or (draws, n) where a point has draws; within the range of the scores.

    Raises:
        BenchError: fewer than two points, two at the same x, or what `bench.curves.ordered` says.
    """
    points = ordered(points)
    x = _distinct(points)
    if len(x) < 2:
        raise BenchError("an area under one point. Give runs at two x or more.")
    widths = np.diff(np.log2(x))  # (K - 1,)
    shares = (np.append(widths, 0) + np.append(0, widths)) / (2 * widths.sum())  # (K,)
    area = shares[0] * points[0].scores
    for share, point in zip(shares[1:], points[1:], strict=True):
        area = area + share * point.scores
    return area


def area(points: Sequence[Point], *, seed_text: str) -> stats.Summary:
    """Sum up the area under score against log2(x), as a share of the range of x: see `area_scores`.

    It is in [0, 1] where the scores are, and the score itself for a flat curve.
    """
    return stats.summarise(area_scores(points), points[0].patients, seed_text=seed_text)


def labels_needed(curve: Curve, full_scores: np.ndarray, *, share: float = 0.95) -> Needed:
    """Find the smallest x at which a curve reaches a share of the score with all the data.

    Curve and full score are resampled in pairs. A resample that never reaches its target counts as
    beyond the largest x.

    Args:
        full_scores: of the images of the curve, (n,) or (draws, n).

    Raises:
        BenchError: a share outside (0, 1], other images, or two points at the same x.
    """
    points, x = curve.points, _distinct(curve.points)
    if not 0 < share <= 1:
        raise BenchError(f"a share of {share} of the full score. Give one above 0, at most 1.")
    if full_scores.shape[-1] != len(points[0].patients):
        raise BenchError(
            f"the full score of {full_scores.shape[-1]} images, the curve of "
            f"{len(points[0].patients)}. Give runs of one data set and split."
        )
    full = Point(float(x[-1]), "all the data", full_scores, points[0].patients)
    means = np.array([[point.scores.mean() for point in [*points, full]]])
    low = high = None
    interval = curve.summaries[0].interval
    if interval.low is not None:
        drawn = resampled([*points, full], curve.seed_text, resamples=stats.RESAMPLES)
        found = _crossings(x, drawn[:, :-1], share * drawn[:, -1])
        ends = np.quantile(found, levels([*points, full]), method="inverted_cdf")  # inf stays inf
        low, high = map(_finite, ends)
    return Needed(
        target=float(share * means[0, -1]),
        x=_finite(_crossings(x, means[:, :-1], share * means[:, -1])[0]),
        low=low,
        high=high,
        smallest=float(x[0]),
        largest=float(x[-1]),
        note=interval.note,
    )


def _crossings(x: np.ndarray, means: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Find where curves (R, K) first reach their targets (R,): (R,), infinite where they do not."""
    reached = means >= targets[:, None] - ROUNDING  # (R, K)
    rows, after = np.arange(len(means)), reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    start, rise = means[rows, before], means[rows, after] - means[rows, before]
    part = np.where(rise > 0, (targets - start) / np.where(rise > 0, rise, 1), 0)
    found = x[before] * (x[after] / x[before]) ** np.clip(part, 0, 1)
    return np.where(reached.any(axis=1), found, np.inf)


def _distinct(points: Sequence[Point]) -> np.ndarray:
    x = np.array([point.x for point in points], dtype=float)
    for here, there in zip(points[1:], points[:-1], strict=True):
        if here.x == there.x:
            raise BenchError(
                f"{there.label!r} and {here.label!r} both lie at x = {here.x:g}. Keep one of them."
            )
    return x


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _number(x: float) -> str:
    return f"{x:.3g}" if x < 1000 else f"{x:,.0f}"
