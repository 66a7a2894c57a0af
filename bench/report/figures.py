"""The figures of a report: forest plots, differences and curves, from computed results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from bench.api.board import Block, Row
from bench.api.report import Cell, CurvePlot, IntervalPlot
from bench.board.scores import lower_is_better
from bench.figures import curves as figures_curves
from bench.render.boards import is_bold
from bench.render.runs import named
from bench.report import svg
from bench.report.privacy import without_folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.api.report import Curve

MOST_ROWS = 40  # rows of a figure
MOST_LETTERS = 44  # characters of a label beside an axis
WIDTH_INCH = 7.2
ROW_INCH = 0.23


@dataclass(frozen=True)
class Shown:
    """A figure and its caption."""

    caption: str
    picture: Markup


def forest(block: Block) -> Shown:
    """Draw a forest plot of a group: scores, and differences to the reference, with intervals."""
    rows = block.rows[:MOST_ROWS]
    metric = next(iter(rows[0].scores))
    bold = [is_bold(row, block) for row in rows]
    summaries = [row.scores[metric].summary for row in rows]
    plot = IntervalPlot(
        block.title,
        named(metric),
        [
            (row_name(block, row), score.mean or 0.0, score.interval.low, score.interval.high)
            for row, score in zip(rows, summaries, strict=True)
        ],
    )
    chance = None
    if block.chance and not lower_is_better(metric):
        chance = max(row.means[metric] or 0.0 for row in block.chance)
    minus = f"minus {block.reference or 'the best'}"
    with svg.look():
        picture = _draw_intervals(plot, bold, chance, rows, minus)
    caption = f"{named(metric)}{f', and {minus},' if len(rows) > 1 else ''}"
    caption += _with_intervals([score.interval.low is not None for score in summaries])
    caption += "; filled: the best row and those tied with it." if any(bold) else "."
    if chance is not None:
        caption += " Dashed: the best chance baseline."
    if len(rows) < len(block.rows):
        caption += f" Only the best {len(rows)} of {len(block.rows)} rows are drawn."
    return Shown(caption, picture)


def interval_plot(plot: IntervalPlot) -> Shown:
    """Draw values with their intervals."""
    with svg.look():
        picture = _draw_intervals(plot, [True] * len(plot.rows), None)
    intervals = _with_intervals([low is not None for *_, low, _ in plot.rows])
    return Shown(f"{plot.title}: {plot.x_label}{intervals}.", picture)


def curve(plot: CurvePlot) -> Shown:
    """Draw curves with their confidence bands."""
    curves = {cut(safe(name)): curve for name, curve in plot.curves.items()}
    shown = CurvePlot(safe(plot.title), curves, safe(plot.x_label), safe(plot.y_label))
    drawn = figures_curves.drawn(shown, kind=".svg", look=svg.LOOK)
    descriptions = []
    for name, curve in curves.items():
        points = zip(curve.x.tolist(), curve.summaries, strict=True)
        means = ", ".join(f"{x:.3g}: {Cell(summary.mean)}" for x, summary in points)
        descriptions.append(f"{name}: {means}")
    contents = _contents_of(list(plot.curves.values()))
    caption = f"{plot.y_label} against {plot.x_label}{contents}."
    return Shown(caption, svg.element(drawn, shown.title, "; ".join(descriptions)))


def _contents_of(curves: Sequence[Curve]) -> str:
    """Describe what is drawn in addition to the means of curves."""
    intervals = _with_intervals([figures_curves.has_intervals(curve) for curve in curves])
    fitted = [curve.fit is not None for curve in curves]
    if not any(fitted):
        return f"{intervals}; straight lines connect the means"
    if all(fitted):
        return f"{intervals} and fitted power laws"
    return f"{intervals} and fitted power laws; straight lines connect means without a fit"


def _with_intervals(drawn: Sequence[bool]) -> str:
    """Describe which rows or curves have an interval."""
    if all(drawn):
        return " with 95 % intervals"
    return " with 95 % intervals where available" if any(drawn) else " without intervals"


def _draw_intervals(
    plot: IntervalPlot,
    bold: Sequence[bool],
    chance: float | None,
    compared: Sequence[Row] = (),
    minus: str = "",
) -> Markup:
    """Draw the values of a plot and, beside them, the differences of several compared rows."""
    import seaborn as sns
    from matplotlib.figure import Figure

    panels = 2 if len(compared) > 1 else 1
    height = 0.9 + ROW_INCH * len(plot.rows)
    figure = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
    grid = {"width_ratios": [1.6, 1][:panels]}
    axes = figure.subplots(1, panels, sharey=True, squeeze=False, gridspec_kw=grid)[0]
    accent = sns.color_palette("colorblind")[0]
    for y, ((_, mean, low, high), top) in enumerate(zip(plot.rows, bold, strict=True)):
        _dot(axes[0], y, (mean, low, high), top, accent)
    if chance is not None:
        axes[0].axvline(chance, color=svg.INK, linestyle="dashed", linewidth=0.8)
    axes[0].set_yticks(range(len(plot.rows)), [cut(safe(name)) for name, *_ in plot.rows])
    axes[0].set_ylim(len(plot.rows) - 0.4, -0.6)
    axes[0].set_xlabel(plot.x_label)
    if panels == 2:
        for y, row in enumerate(compared):
            if (difference := row.standing and row.standing.difference) is not None:
                bounds = difference.interval.low, difference.interval.high
                _dot(axes[1], y, (difference.mean or 0.0, *bounds), bold[y], accent)
        axes[1].axvline(0, color=svg.INK, linewidth=0.8)
        axes[1].set_xlabel(cut(safe(minus)))
    for panel in axes:
        panel.grid(axis="y", color=svg.INK, alpha=0.12, linewidth=0.6)
        panel.tick_params(left=False)
        sns.despine(ax=panel, left=True)
    description = "; ".join(
        f"{safe(name)} {Cell(mean, low, high)}" for name, mean, low, high in plot.rows
    )
    return svg.inline(figure, safe(plot.title), description)


def _dot(
    axes: Axes,
    y: int,
    number: tuple[float, float | None, float | None],
    top: bool,
    colour: object,
) -> None:
    mean, low, high = number
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot(mean, y, "o", color=colour, markersize=5, fillstyle=fill(top))


def fill(full: bool) -> str:
    """Return Matplotlib's fill style of a marker."""
    return "full" if full else "none"


def row_name(block: Block, row: Row) -> str:
    """Return the backbone of a row, with the input size if the group has the backbone twice."""
    name = row.backbone
    if [other.backbone for other in block.rows].count(name) > 1:
        name += f" at {row.record.spec.view.px} px"
    return safe(name)


def safe(text: str) -> str:
    """Remove absolute folders from a text."""
    return without_folders(text)


def cut(text: str) -> str:
    """Truncate a label beside an axis."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
