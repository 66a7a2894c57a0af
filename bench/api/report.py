"""Reports on runs: tables, curves and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.api import board
from bench.api.experiment import SeriesOptions
from bench.api.record import Record
from bench.api.run_config import RunConfig
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

    config: RunConfig
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def record(self) -> Record | None:
        """The record of the run; None where it failed."""
        return self.outcome and self.outcome.record


@dataclass(frozen=True)
class Outcome:
    """A committed run, when and where it ran, and whether it was there already."""

    record: Record
    context: Mapping[str, object]
    cached: bool


DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A number in a table, with its uncertainty. `str(cell)` is the text for terminals and pages.

    Attributes:
        value: None is shown as a dash.
        low, high: the ends of its interval; None without one.
        parts: shown in braces if there is no interval: the mean of each patient.
        spread: standard deviation over few-shot draws.
        mark: "?" if the number or its interval is unreliable.
        digits: number of decimals.
        percent: whether to show the number times 100.
        smallest: a smaller value is shown as "<smallest": a test cannot show that p is 0.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    parts: tuple[float, ...] = ()
    spread: float | None = None
    mark: str = ""
    digits: int = 3
    percent: bool = False
    smallest: float = float("-inf")

    @classmethod
    def of(cls, value: float | None, interval: board.Interval, **changes: Any) -> Cell:
        """Return the cell of a number with its interval; "?" marks an unreliable interval."""
        mark = "?" if interval.note and interval.low is not None else ""
        return cls(value, interval.low, interval.high, mark=mark, **changes)

    @classmethod
    def of_score(cls, score: board.Score) -> Cell:
        """Return the cell of a score, with its spread over draws and the means of few patients."""
        summary = score.summary
        return cls.of(
            summary.mean, summary.interval, parts=score.patient_means, spread=summary.spread
        )

    def format(self, value: float | None) -> str:
        """Format a number with the digits of this cell; None is a dash."""
        if value is None:
            return DASH
        if value < self.smallest:
            return f"<{self.smallest}"
        shown = 100 * value if self.percent else value
        return f"{shown:.{self.digits}f}" if self.digits else f"{shown:,.0f}"

    @property
    def number(self) -> str:
        """The number alone."""
        return self.format(self.value)

    @property
    def bounds(self) -> list[str]:
        """The ends of the interval, or the means of the patients."""
        if self.low is not None and self.high is not None:
            return [self.format(self.low), self.format(self.high)]
        return [self.format(mean) for mean in self.parts]

    @property
    def interval(self) -> str:
        """The interval in brackets, or the means of the patients in braces, with the mark."""
        text = ", ".join(self.bounds)
        if text:
            text = f"[{text}]" if self.low is not None else f"{{{text}}}"
        return f"{text} {self.mark}".strip()

    @property
    def with_spread(self) -> str:
        """The number with its spread over draws."""
        spread = "" if self.spread is None else f" ± {self.format(self.spread)}"
        return self.number + spread

    def __str__(self) -> str:
        return f"{self.with_spread} {self.interval}".strip()


def p_cell(p: float | None) -> Cell:
    """Return the cell of a p value."""
    return Cell(p, smallest=0.001)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        keep: whether it is shown on a terminal with fewer than 100 columns.
    """

    name: str
    keep: bool = True


@dataclass(frozen=True)
class Table:
    """A table of text and numbers.

    Attributes:
        columns: a string is a column that is always shown.
        rows: as long as `columns`; text is a string.
        notes: lines below the table.
        grouped: the first column has equal values in consecutive rows and becomes a heading.
        bold: indices of the rows in bold.
        below: rows below a rule, such as chance baselines.
        stacked: show intervals below their numbers on a terminal.
    """

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()
    grouped: bool = False
    bold: frozenset[int] = frozenset()
    below: Sequence[Sequence[Cell | str]] = ()
    stacked: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column if isinstance(column, str) else column.name for column in self.columns]

    @property
    def is_number(self) -> list[bool]:
        """Whether each column contains numbers."""
        rows = [*self.rows, *self.below]
        return [any(isinstance(row[i], Cell) for row in rows) for i in range(len(self.columns))]


@dataclass(frozen=True)
class CurvePlot:
    """Curves drawn in one figure, by their names in the legend."""

    title: str
    curves: Mapping[str, Curve]
    x_label: str
    y_label: str


@dataclass(frozen=True)
class IntervalPlot:
    """Numbers with intervals, drawn one below the other on a shared axis.

    Attributes:
        rows: name, number, and the ends of its interval, None without one.
    """

    title: str
    x_label: str
    rows: Sequence[tuple[str, float, float | None, float | None]]


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report on several runs.

    Attributes:
        metric: the reported score.
        series: the options of the command that created the runs; the defaults for stored runs.
    """

    metric: str = "dice"
    series: SeriesOptions = field(default_factory=SeriesOptions)


@dataclass(frozen=True)
class SeriesReport:
    """The report of a protocol or a series on several runs; empty if they cannot be compared.

    Attributes:
        lines: sentences below the tables.
        json: the content of the tables as JSON objects.
        curves, intervals: the plots.
    """

    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    json: Sequence[Mapping[str, object]] = ()
    curves: Sequence[CurvePlot] = ()
    intervals: Sequence[IntervalPlot] = ()


def several(count: int, noun: str) -> str:
    """Return a count with its noun in the singular or plural."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
