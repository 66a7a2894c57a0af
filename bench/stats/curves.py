"""Curves of a score against labels, pretraining steps, parameters or input size, with intervals.

All points of a curve contain the same images and share one set of resamples of patients (and of
few-shot draws). So the means, their differences, the fitted law and its limit, the area under the
curve and the labels needed are all paired.

The law is a saturating power law (`bench.stats.power_law`), fitted to the means by least squares
with inverse-variance weights. Its intervals cover the sampling of patients and draws, not the
choice of the law. It is never extrapolated beyond twice the largest x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.api import board
from bench.api.report import Band, Curve, Fit, Point
from bench.errors import BenchError
from bench.stats import bootstrap
from bench.stats.bootstrap import ROUNDING
from bench.stats.power_law import EXPONENTS, Laws, fit_laws

FITS = 1000  # fitted resamples: the first of those of the intervals
FIXED_EXPONENT = (0.5, 0.5)  # for three points: an error that falls like a standard error
AHEAD = 2  # extrapolation limit, as a multiple of the largest x
PLACES = 100  # values of x of the band
MOST_UNEVEN = 100  # largest ratio of weights; scores that are all 0 have no variance
AT_THE_BOUND = 1e-6


def curve(points: Sequence[Point], *, seed_text: str) -> Curve:
    """Summarise the points of a curve and the differences of neighbours, and fit a law.

    Args:
        points: in any order; with the same images, and the same number of draws in all points that
            have several.
        seed_text: see `bench.stats.bootstrap.shared_seed`.

    Raises:
        BenchError: no points, different images, or different numbers of draws.
    """
    points = ordered(points)
    patients = points[0].patients
    summaries = [
        bootstrap.summarise(point.scores, patients, seed_text=seed_text) for point in points
    ]
    steps = [
        bootstrap.summarise(point.scores - previous.scores, patients, seed_text=seed_text)
        for point, previous in zip(points[1:], points[:-1], strict=True)
    ]
    unfitted = _unfitted(points)
    fit = None if unfitted else _fit(points, seed_text, summaries[0].interval.note)
    return Curve(points, seed_text, summaries, steps, fit, unfitted)


def ordered(points: Sequence[Point]) -> list[Point]:
    """Sort points by x and check that they can form one curve.

    Raises:
        BenchError: no points, different images, or different numbers of draws.
    """
    if not points:
        raise BenchError("a curve without points. Give the runs of the curve.")
    points = sorted(points, key=lambda point: (point.x, point.label))
    first = points[0]
    for point in points[1:]:
        if list(point.patients) != list(first.patients):
            raise BenchError(
                f"{first.label!r} and {point.label!r} were scored on different images, or in a "
                "different order. Give runs of one data set and split."
            )
    draws = {len(point.scores) for point in points if point.scores.ndim > 1} - {1}
    if len(draws) > 1:
        raise BenchError(
            f"one curve of {' and '.join(map(str, sorted(draws)))} few-shot draws. "
            "Give runs of the same number of draws."
        )
    return points


def resampled(points: Sequence[Point], seed_text: str, *, resamples: int) -> np.ndarray:
    """Return the mean of each point in each resample of patients and draws, (B, K)."""
    columns = [
        bootstrap.resampled_means(
            point.scores, point.patients, resamples=resamples, seed_text=seed_text
        )
        for point in points
    ]
    return np.stack(columns, axis=1)


def levels(points: Sequence[Point]) -> np.ndarray:
    """Return the widest quantile levels of the points, (2,), for statistics of all points."""
    pairs = [bootstrap.quantile_levels(point.scores, point.patients) for point in points]
    return min(pairs, key=lambda pair: pair[0])


def rows(curve: Curve) -> list[Mapping[str, object]]:
    """Return one row per point, for tables and JSON."""
    steps = [None, *curve.steps]
    fitted = curve.fit.fitted if curve.fit else [None] * len(curve.points)
    return [
        {
            "x": float(point.x),
            "label": point.label,
            "mean": summary.mean,
            "ci_low": summary.interval.low,
            "ci_high": summary.interval.high,
            "note": summary.interval.note,
            "spread_over_draws": summary.spread,
            "n_images": summary.n_images,
            "n_patients": summary.n_patients,
            "step": step.mean if step else None,
            "step_low": step.interval.low if step else None,
            "step_high": step.interval.high if step else None,
            "fitted": None if score is None else float(score),
        }
        for point, summary, step, score in zip(
            curve.points, curve.summaries, steps, fitted, strict=True
        )
    ]


def _unfitted(points: Sequence[Point]) -> str:
    different = len({point.x for point in points})
    if different < 3:
        return f"no law: {different} different x, fewer than 3"
    if any(point.scores.size == 0 for point in points):
        return "no law: no images"
    if any(point.scores.min() < 0 or point.scores.max() > 1 for point in points):
        return "no law: scores outside [0, 1]"
    return ""


def _fit(points: Sequence[Point], seed_text: str, note: str) -> Fit:
    """Fit a law to the means, and one to each resample for the intervals.

    Args:
        note: note of the intervals: see `bench.api.board.Interval`.
    """
    x = np.array([point.x for point in points], dtype=float)
    means = np.array([point.scores.mean() for point in points])
    resampled_means = np.clip(resampled(points, seed_text, resamples=FITS), 0, 1)  # (B, K)
    variance = resampled_means.var(axis=0)  # (K,)
    weights = 1 / np.maximum(variance, max(variance.max() / MOST_UNEVEN, ROUNDING**2))
    fixed = len(set(x)) == 3
    exponents = FIXED_EXPONENT if fixed else EXPONENTS
    laws = fit_laws(x, np.vstack([means, resampled_means]), weights, exponents=exponents)
    band_x = np.sort(np.append(np.geomspace(x[0], AHEAD * x[-1], PLACES), x[-1]))  # (X,)
    fitted, scores = laws.at(x)[0], laws.at(band_x)  # (K,), (1 + B, X)
    low = high = None
    interval = board.Interval(None, None, "expanded", note)
    if len(set(points[0].patients)) >= bootstrap.FEWEST:
        low, high = np.quantile(scores[1:], levels(points), axis=0)
        ends = np.quantile(laws.limit[1:], levels(points))
        interval = board.Interval(float(ends[0]), float(ends[1]), "expanded", note)
    spread = ((means - means.mean()) ** 2).sum()
    residual = ((means - fitted) ** 2).sum()
    return Fit(
        limit=float(laws.limit[0]),
        interval=interval,
        gap=float(laws.gap[0]),
        exponent=float(laws.exponent[0]) if laws.gap[0] > 0 else None,
        fitted=fitted,
        rmse=float(np.sqrt(residual / len(x))),
        r_squared=float(1 - residual / spread) if spread > ROUNDING else None,
        band=Band(band_x, scores[0], low, high),
        flags=_flags(laws, interval, float(x[-1]), fixed),
    )


def _flags(laws: Laws, interval: board.Interval, largest: float, fixed: bool) -> list[str]:
    """Return why the limit of the first law is unreliable."""
    flags = []
    remaining_gap = (largest / laws.smallest) ** -laws.exponent[0]  # as a share of the first gap
    if laws.gap[0] == 0:
        flags.append("flat: the score does not grow with x")
    elif laws.limit[0] > 1 - AT_THE_BOUND or remaining_gap > 0.5:
        flags.append("not saturating: the limit is far beyond the largest x")
    if interval.low is None or interval.high is None:
        flags.append("fit not identified: too few patients for an interval of the limit")
    elif interval.low < AT_THE_BOUND or interval.high > 1 - AT_THE_BOUND:
        flags.append("fit not identified: the interval of the limit reaches its bounds")
    if fixed:
        flags.append(f"exponent fixed at {FIXED_EXPONENT[0]}: only three different x")
    return flags


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
            `bench.stats.curves.ordered`.
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


def area(points: Sequence[Point], *, seed_text: str) -> board.Summary:
    """Summarise the normalised area under a curve: see `area_scores`.

    It is in [0, 1] if the scores are, and equals the score of a flat curve.
    """
    return bootstrap.summarise(area_scores(points), points[0].patients, seed_text=seed_text)


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
        drawn = resampled([*points, full], curve.seed_text, resamples=board.RESAMPLES)  # (B, K + 1)
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
