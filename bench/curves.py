"""Curves of a score against labels, pretraining steps, parameters or input size, with intervals.

All points of a curve contain the same images and share one set of resamples of patients (and of
few-shot draws). So the means, their differences, the fitted law and its limit, the area under the
curve and the labels needed are all paired.

The law is a saturating power law (`bench.power_law`), fitted to the means by least squares with
inverse-variance weights. Its intervals cover the sampling of patients and draws, not the choice of
the law. It is never extrapolated beyond twice the largest x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import stats
from bench.errors import BenchError
from bench.levels import ROUNDING
from bench.power_law import EXPONENTS, Laws, fit_laws

FITS = 1000  # fitted resamples: the first of those of the intervals
FIXED_EXPONENT = (0.5, 0.5)  # for three points: an error that falls like a standard error
AHEAD = 2  # extrapolation limit, as a multiple of the largest x
PLACES = 100  # values of x of the band
MOST_UNEVEN = 100  # largest ratio of weights; scores that are all 0 have no variance
AT_THE_BOUND = 1e-6


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a curve.

    Attributes:
        x: positive: number of labels, steps, parameters or pixels.
        label: name of the run.
        scores: (n,) scores of images, or (draws, n) of few-shot draws and images.
        patients: the patient of each image, in the same order in all points of a curve.

    Raises:
        BenchError: x is not positive and finite.
    """

    x: float
    label: str
    scores: np.ndarray
    patients: Sequence[str]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.x) and self.x > 0):
            raise BenchError(
                f"the point {self.label!r} has x = {self.x}, which a logarithmic axis cannot show. "
                "Leave it out, or give an x above 0."
            )


@dataclass(frozen=True, eq=False)
class Band:
    """A fitted law from the smallest x to twice the largest x, logarithmically spaced.

    Attributes:
        x, mean: (X,) float64; x contains the largest measured x.
        low, high: (X,) the 95 % band; None with too few patients.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Fit:
    """A saturating power law, limit - gap (x / smallest x)^(-exponent).

    Attributes:
        limit: the asymptotic score, in [0, 1].
        interval: the interval of the limit.
        gap: limit minus the first point.
        exponent: None for a flat law.
        fitted: (K,) scores of the law at the points.
        rmse: root mean square error of the means, in the unit of the score.
        r_squared: explained share of the variance of the means; None if they are equal.
        flags: why the limit is unreliable; empty if it is not.
    """

    limit: float
    interval: stats.Interval
    gap: float
    exponent: float | None
    fitted: np.ndarray
    rmse: float
    r_squared: float | None
    band: Band
    flags: Sequence[str]

    def plain(self) -> dict[str, object]:
        """Return the law as a JSON object."""
        return {
            "limit": self.limit,
            "limit_low": self.interval.low,
            "limit_high": self.interval.high,
            "note": self.interval.note,
            "gap": self.gap,
            "exponent": self.exponent,
            "rmse": self.rmse,
            "r_squared": self.r_squared,
            "flags": list(self.flags),
        }


@dataclass(frozen=True, eq=False)
class Curve:
    """Points with ascending x, their summaries, and a fitted law.

    Attributes:
        summaries: one per point.
        steps: summaries of the paired differences of consecutive points, one fewer than points.
        fit: None without a law.
        unfitted: why there is no law; "" if there is one.
    """

    points: Sequence[Point]
    seed_text: str
    summaries: Sequence[stats.Summary]
    steps: Sequence[stats.Summary]
    fit: Fit | None
    unfitted: str

    @property
    def x(self) -> np.ndarray:
        """The x of the points, (K,) float64."""
        return np.array([point.x for point in self.points], dtype=float)


def curve(points: Sequence[Point], *, seed_text: str) -> Curve:
    """Summarise the points of a curve and the differences of neighbours, and fit a law.

    Args:
        points: in any order; with the same images, and the same number of draws in all points that
            have several.
        seed_text: see `bench.stats.shared_seed`.

    Raises:
        BenchError: no points, different images, or different numbers of draws.
    """
    points = ordered(points)
    patients = points[0].patients
    summaries = [stats.summarise(point.scores, patients, seed_text=seed_text) for point in points]
    steps = [
        stats.summarise(point.scores - previous.scores, patients, seed_text=seed_text)
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
        stats.resampled_means(
            np.atleast_2d(point.scores), point.patients, resamples=resamples, seed_text=seed_text
        )
        for point in points
    ]
    return np.stack(columns, axis=1)


def levels(points: Sequence[Point]) -> np.ndarray:
    """Return the widest quantile levels of the points, (2,), for statistics of all points."""
    pairs = [stats.crossed_levels(np.atleast_2d(point.scores), point.patients) for point in points]
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
        note: note of the intervals: see `bench.stats.Interval`.
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
    interval = stats.Interval(None, None, "expanded", note)
    if len(set(points[0].patients)) >= stats.FEWEST:
        low, high = np.quantile(scores[1:], levels(points), axis=0)
        ends = np.quantile(laws.limit[1:], levels(points))
        interval = stats.Interval(float(ends[0]), float(ends[1]), "expanded", note)
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


def _flags(laws: Laws, interval: stats.Interval, largest: float, fixed: bool) -> list[str]:
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
