"""What several runs report together: tables, curves and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.api import board
from bench.api.board import BoardOptions
from bench.api.config import RunConfig
from bench.api.experiment import SeriesOptions
from bench.api.record import Record
from bench.errors import BenchError


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
    interval: board.Interval
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
    summaries: Sequence[board.Summary]
    steps: Sequence[board.Summary]
    fit: Fit | None
    unfitted: str

    @property
    def x(self) -> np.ndarray:
        """The x of the points, (K,) float64."""
        return np.array([point.x for point in self.points], dtype=float)


@dataclass(frozen=True)
class Result:
    """A cell that was run: its outcome, or the reason why there is none."""

    request: RunConfig
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def record(self) -> Record | None:
        """The record of the run; None where it failed."""
        return self.outcome and self.outcome.record


@dataclass(frozen=True)
class Finished:
    """What a protocol or a series tells of.

    Attributes:
        results: of its cells, in their order.
        stored: all runs of the store, oldest first.
    """

    results: Sequence[Result]
    stored: Sequence[Record] = ()
    series: SeriesOptions = field(default_factory=SeriesOptions)
    board: BoardOptions = field(default_factory=BoardOptions)

    @property
    def metric(self) -> str:
        """The score that is told."""
        return self.board.metric


@dataclass(frozen=True)
class Outcome:
    """A committed run, when and where it ran, and whether it was there already."""

    record: Record
    context: Mapping[str, object]
    found: bool


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        words: how many columns, from the left, are not of numbers.
        grouped: whether the first column is the same for several rows.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 2
    grouped: bool = True


@dataclass(frozen=True)
class Picture:
    """Curves that are drawn together, by their names for the legend."""

    title: str
    curves: Mapping[str, Curve]
    x_label: str
    y_label: str


@dataclass(frozen=True)
class Dots:
    """Numbers with intervals that are drawn below each other on one axis.

    Attributes:
        rows: name, number, and the ends of its interval; None for both where there is none.
    """

    title: str
    x_label: str
    rows: Sequence[tuple[str, float, float | None, float | None]]


@dataclass(frozen=True)
class Told:
    """What several runs say together.

    Attributes:
        lines: sentences below the sheets.
        plain: the same for machines, as JSON takes it.
        pictures, dots: what can be drawn of it.
    """

    sheets: Sequence[Sheet] = ()
    lines: Sequence[str] = ()
    plain: Sequence[Mapping[str, object]] = ()
    pictures: Sequence[Picture] = ()
    dots: Sequence[Dots] = ()


def several(count: int, noun: str) -> str:
    """Write how many there are, with the noun in its number."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
