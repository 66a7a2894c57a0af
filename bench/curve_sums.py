"""Label efficiency without a law: the area under a curve, and the labels needed for a score.

Curves are interpolated linearly in log x between measured points, and never extrapolated.
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
        x: None if no measured point reaches the score; the smallest measured x if the first point
            does.
        low, high: 95 % interval of x; None beyond the largest measured x, or without an interval.
        smallest, largest: the range of measured x.
        note: why the interval is missing or unreliable; else "".
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
        """The result as text, for example "12.3 (8 to > 64)"."""
        text = self._text_of(self.x)
        if self.note.startswith("no interval"):
            return text
        low, high = self._text_of(self.low), self._text_of(self.high)
        return f"{text} ({low} to {high})" if low != high else f"{text} ({low})"

    def _text_of(self, x: float | None) -> str:
        if x is None:
            return f"> {_number(self.largest)}"
        if x <= self.smallest:
            return f"<= {_number(x)}"
        return _number(x)


def area_scores(points: Sequence[Point]) -> np.ndarray:
    """Return the area under the score of each image against log2(x), divided by its range.

    The mean over images is the area under the curve of means, so two curves of the same images are
    compared like two runs: by paired differences of these areas.

    Returns:
        (n,), or (draws, n) if a point has draws; within the range of the scores.

    Raises:
        BenchError: fewer than two points, two points with the same x, or an error of
            `bench.curves.ordered`.
    """
    points = ordered(points)
    x = _distinct(points)
    if len(x) < 2:
        raise BenchError("a curve of one point has no area. Give runs at two x or more.")
    widths = np.diff(np.log2(x))  # (K - 1,)
    weights = (np.append(widths, 0) + np.append(0, widths)) / (2 * widths.sum())  # (K,)
    total = weights[0] * points[0].scores
    for weight, point in zip(weights[1:], points[1:], strict=True):
        total = total + weight * point.scores
    return total


def area(points: Sequence[Point], *, seed_text: str) -> stats.Summary:
    """Summarise the normalised area under a curve: see `area_scores`.

    It is in [0, 1] if the scores are, and equals the score of a flat curve.
    """
    return stats.summarise(area_scores(points), points[0].patients, seed_text=seed_text)


def labels_needed(curve: Curve, full_scores: np.ndarray, *, share: float = 0.95) -> Needed:
    """Return the smallest x at which a curve reaches a share of the score with all the data.

    The resamples of the curve and of the full score are paired. A resample that never reaches its
    target counts as beyond the largest x.

    Args:
        full_scores: scores with all the data of the images of the curve, (n,) or (draws, n).

    Raises:
        BenchError: a share outside (0, 1], different images, or two points with the same x.
    """
    points, x = curve.points, _distinct(curve.points)
    if not 0 < share <= 1:
        raise BenchError(f"the share {share} of the full score: give one above 0, at most 1.")
    if full_scores.shape[-1] != len(points[0].patients):
        raise BenchError(
            f"the full score has {full_scores.shape[-1]} images, the curve "
            f"{len(points[0].patients)}. Give runs of one data set and split."
        )
    full = Point(float(x[-1]), "all the data", full_scores, points[0].patients)
    means = np.array([[point.scores.mean() for point in [*points, full]]])
    low = high = None
    interval = curve.summaries[0].interval
    if interval.low is not None:
        drawn = resampled([*points, full], curve.seed_text, resamples=stats.RESAMPLES)  # (B, K + 1)
        crossings = _crossings(x, drawn[:, :-1], share * drawn[:, -1])  # (B,)
        # This method does not interpolate, so infinite crossings stay infinite.
        ends = np.quantile(crossings, levels([*points, full]), method="inverted_cdf")
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
    """Return the x (R,) at which curves (R, K) first reach their targets (R,); inf if never."""
    reached = means >= targets[:, None] - ROUNDING  # (R, K)
    rows, after = np.arange(len(means)), reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    start, rise = means[rows, before], means[rows, after] - means[rows, before]
    part = np.where(rise > 0, (targets - start) / np.where(rise > 0, rise, 1), 0)
    crossings = x[before] * (x[after] / x[before]) ** np.clip(part, 0, 1)
    return np.where(reached.any(axis=1), crossings, np.inf)


def _distinct(points: Sequence[Point]) -> np.ndarray:
    x = np.array([point.x for point in points], dtype=float)
    for point, previous in zip(points[1:], points[:-1], strict=True):
        if point.x == previous.x:
            raise BenchError(
                f"{previous.label!r} and {point.label!r} both have x = {point.x:g}. "
                "Leave one of them out."
            )
    return x


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _number(x: float) -> str:
    return f"{x:.3g}" if x < 1000 else f"{x:,.0f}"
