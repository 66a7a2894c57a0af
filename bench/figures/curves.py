"""Draw learning curves with confidence intervals, for papers."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from bench.api.board import Score
from bench.api.record import Record
from bench.api.report import Curve, CurvePlot
from bench.board.scores import scores_of_images
from bench.errors import BenchError
from bench.figures.style import BASE, METADATA, check_kind, plot_style
from bench.render.runs import named, run_title
from bench.store.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


INCHES = (4.6, 3.4)
DPI = 300  # of a PNG
LOG_FROM = 8  # ratio of largest to smallest x above which the axis is logarithmic
MOST_TICKS = 8
MARKERS = "osD^vPX<>p"


def draw(plots: Sequence[CurvePlot], path: Path) -> list[Path]:
    """Draw one figure per plot; several files are numbered: `curve-1.svg`, `curve-2.svg`.

    Args:
        path: the file to write, .svg, .png or .pdf.

    Raises:
        BenchError: the file type is unknown, there is no plot, or a file cannot be written.
    """
    check_kind(path)
    if not plots:
        raise BenchError("--plot: there are no curves to draw. Give two or more runs of a kind.")
    paths = [path]
    if len(plots) > 1:
        paths = [path.with_stem(f"{path.stem}-{n}") for n in range(1, len(plots) + 1)]
    for plot, plot_path in zip(plots, paths, strict=True):
        write_bytes(plot_path, drawn(plot, kind=path.suffix.lower()))
    return paths


def drawn(plot: CurvePlot, *, kind: str, look: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Draw curves in one figure: means with intervals, and fitted power laws with bands.

    A fitted law is solid up to the largest x and, if its limit is reliable, dashed up to twice
    that. Without a fit, straight lines join the means. The x axis is logarithmic if it spans more
    than a factor of 8. Colours are colour-blind safe, and every curve has a different marker.

    Args:
        kind: the file type, .svg, .png or .pdf.
        look: matplotlib settings that override the style.

    Returns:
        The bytes of the file.
    """
    import seaborn as sns

    buffer = io.BytesIO()
    with plot_style(look):
        figure = Figure(figsize=INCHES, layout="constrained")  # no pyplot: no window, no state
        axes = figure.add_subplot()
        colours = sns.color_palette("colorblind", len(plot.curves))
        for number, (name, curve) in enumerate(plot.curves.items()):
            _draw_curve(axes, name, curve, (colours[number], MARKERS[number % len(MARKERS)]))
        _scale_x(axes, np.unique(np.concatenate([curve.x for curve in plot.curves.values()])))
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        sns.despine(ax=axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # bands would cover it inside
        figure.savefig(buffer, format=kind[1:], dpi=DPI, metadata=METADATA[kind])
    return buffer.getvalue()


def has_intervals(curve: Curve) -> bool:
    """Return whether every mean of a curve has an interval; only then intervals are drawn."""
    return all(summary.interval.low is not None for summary in curve.summaries)


def _draw_curve(axes: Axes, name: str, curve: Curve, style: tuple[Any, str]) -> None:
    """Draw the means of a curve and its fitted law, or lines, in a (colour, marker)."""
    colour, marker = style
    means = np.array([summary.mean for summary in curve.summaries], dtype=float)
    if has_intervals(curve):
        bounds = [summary.interval for summary in curve.summaries]
        ends = np.array([(bound.low, bound.high) for bound in bounds], dtype=float)  # (K, 2)
        axes.vlines(curve.x, ends[:, 0], ends[:, 1], color=colour, linewidth=1)
    fit = curve.fit
    line = "none" if fit else "solid"
    axes.plot(curve.x, means, color=colour, marker=marker, linestyle=line, markersize=4, label=name)
    if fit is None:
        return
    inside = fit.band.x <= curve.x[-1]
    shown = inside if fit.flags else np.ones_like(inside)
    axes.plot(fit.band.x[inside], fit.band.mean[inside], color=colour, linewidth=1.4)
    if not fit.flags:
        beyond = fit.band.x >= curve.x[-1]
        axes.plot(fit.band.x[beyond], fit.band.mean[beyond], color=colour, linestyle="dashed")
    if fit.band.low is not None and fit.band.high is not None:
        low, high = fit.band.low[shown], fit.band.high[shown]
        axes.fill_between(fit.band.x[shown], low, high, color=colour, alpha=0.15, linewidth=0)


def _scale_x(axes: Axes, x: np.ndarray) -> None:
    """Set the scale of the x axis; up to `MOST_TICKS` values of x get a tick each."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    if x[-1] > LOG_FROM * x[0]:
        axes.set_xscale("log")
    if len(x) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short(x: float) -> str:
    """Format a number with a metric suffix: 86,000,000 as 86M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


INCHES_WIDE = 6.4
INCHES_A_PATIENT = 0.22
MOST_NAMED = 40  # patients; more names would overlap
DOTS, LINE = "#0072b2", "#333333"


class NotebookFigure(Figure):
    """A figure that notebooks display without pyplot, which would never free it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return file.getvalue()


def strip(record: Record, score: Score) -> NotebookFigure:
    """Draw the score of each image as a dot, one line per patient, with the mean and its interval.

    The worst patient is at the bottom. Few-shot scores are averaged over draws.

    Args:
        record: the run.
        score: the score to draw, with its summary.
    """
    values = scores_of_images(record, score.metric).mean(axis=0)  # (images,)
    by_patient = defaultdict(list)
    for image, value in zip(record.images, values, strict=True):
        by_patient[record.patients[image]].append(value)
    patients = sorted(by_patient, key=lambda patient: float(np.mean(by_patient[patient])))
    height = 1.2 + INCHES_A_PATIENT * min(len(patients), MOST_NAMED)
    with matplotlib.style.context(["default", BASE]):
        figure = NotebookFigure(figsize=(INCHES_WIDE, height), layout="constrained")
        axes = figure.subplots()
        for line, patient in enumerate(patients):
            scores = by_patient[patient]
            axes.plot(scores, [line] * len(scores), "o", color=DOTS, alpha=0.7, ms=5)
        summary, bounds = score.summary, score.summary.interval
        if summary.mean is not None:
            axes.axvline(summary.mean, color=LINE, label="mean")
        if bounds.low is not None and bounds.high is not None:
            axes.axvspan(bounds.low, bounds.high, color=LINE, alpha=0.15, lw=0, label="95 %")
        shown = patients if len(patients) <= MOST_NAMED else []
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylabel("patient")
        axes.set_xlabel(named(score.metric))
        axes.set_title(run_title(record), fontsize=9, loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
