"""Draw curves with their intervals, for papers: the same curves give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.curves import Curve
from bench.errors import BenchError
from bench.store import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHOUT_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".png": {},
    ".pdf": {"CreationDate": None},
}
INCHES = (4.6, 3.4)
DPI = 300  # of a PNG
LOG_FROM = 8  # largest over smallest x
MOST_TICKS = 8
MARKERS = "osD^vPX<>p"
LOOK = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no machine's own fonts
    "svg.fonttype": "path",  # looks the same where that font is missing
    "svg.hashsalt": "bench",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name may hold a $
    "legend.frameon": False,
}


def draw(
    curves: Mapping[str, Curve], path: Path, *, x_label: str, y_label: str, title: str
) -> None:
    """Draw curves in one picture: means with intervals, fitted laws with bands.

    A law is solid up to the largest x and, unless something speaks against its limit, dashed to
    twice that; without a law straight lines join the means. x is logarithmic where it spans more
    than a factor of 8. The colours can be told apart by the colour-blind, and each curve has its
    own marker.

    Args:
        curves: by the names for the legend.
        path: what it ends in is the kind: .svg, .png or .pdf.

    Raises:
        BenchError: another kind, no curves, or a folder that cannot be written to.
    """
    kind = path.suffix.lower()
    if kind not in WITHOUT_DATE:
        raise BenchError(f"cannot draw {path}: a picture ends in {', '.join(WITHOUT_DATE)}.")
    if not curves:
        raise BenchError(f"no curves to draw in {path}. Give one or more.")
    words = {"xlabel": x_label, "ylabel": y_label, "title": title}
    write_bytes(path, drawn(curves, words, kind=kind))


def drawn(
    curves: Mapping[str, Curve],
    words: Mapping[str, str],
    *,
    kind: str,
    look: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """Draw as `draw` does, and give the bytes of the picture.

    Args:
        words: the title, xlabel and ylabel.
        look: matplotlib's settings where they are to be others.
    """
    import matplotlib.style
    import seaborn as sns
    from matplotlib.figure import Figure

    own = {**sns.plotting_context("paper"), **sns.axes_style("ticks"), **LOOK, **look}
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", own]):
        figure = Figure(figsize=INCHES, layout="constrained")  # no pyplot: no window, no state
        axes = figure.add_subplot()
        colours = sns.color_palette("colorblind", len(curves))
        for number, (name, curve) in enumerate(curves.items()):
            _draw_one(axes, name, curve, (colours[number], MARKERS[number % len(MARKERS)]))
        _scale(axes, np.unique(np.concatenate([curve.x for curve in curves.values()])))
        axes.set(**words)
        sns.despine(ax=axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside: bands leave no room
        figure.savefig(buffer, format=kind[1:], dpi=DPI, metadata=WITHOUT_DATE[kind])
    return buffer.getvalue()


def has_intervals(curve: Curve) -> bool:
    """Tell whether intervals of a curve are drawn: where every mean has one."""
    return all(summary.interval.low is not None for summary in curve.summaries)


def _draw_one(axes: Axes, name: str, curve: Curve, style: tuple[Any, str]) -> None:
    """Draw the means and the law, or the lines, of one curve in a (colour, marker)."""
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
        ahead = fit.band.x >= curve.x[-1]
        axes.plot(fit.band.x[ahead], fit.band.mean[ahead], color=colour, linestyle="dashed")
    if fit.band.low is not None and fit.band.high is not None:
        low, high = fit.band.low[shown], fit.band.high[shown]
        axes.fill_between(fit.band.x[shown], low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Axes, x: np.ndarray) -> None:
    """Scale the x axis and, where there are few, put its ticks at the measured x."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    if x[-1] > LOG_FROM * x[0]:
        axes.set_xscale("log")
    if len(x) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: short(place)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short(x: float) -> str:
    """Write 86,000,000 as 86M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"
