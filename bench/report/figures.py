"""The figures of a report: forests, ranks and curves. Nothing here is computed anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from bench import curve_picture
from bench.board import Block, Row, lower_is_better, part
from bench.display import named, number
from bench.report import svg
from bench.report.words import without_folders
from bench.sheet import Dots, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.curves import Curve
    from bench.stats import Summary

MOST_ROWS = 40  # of a figure
MOST_LETTERS = 44  # of a name beside an axis
WIDTH_INCH = 7.2
ROW_INCH = 0.23


@dataclass(frozen=True)
class Shown:
    """A figure, and what a reader must know of it."""

    caption: str
    picture: Markup


def forest(block: Block) -> Shown:
    """Draw the scores of a block with intervals and, beside them, the ranks with theirs."""
    rows = block.rows[:MOST_ROWS]
    metric = next(iter(rows[0].scores))
    bold = [row.standing is not None and row.standing.top for row in rows]
    bounds = [row.scores[metric].summary for row in rows]
    dots = Dots(
        block.title,
        named(metric),
        [
            (row_name(block, row), own.mean or 0.0, own.interval.low, own.interval.high)
            for row, own in zip(rows, bounds, strict=True)
        ],
    )
    floor = max((each.means[metric] or 0.0 for each in block.chance), default=None)
    floor = None if lower_is_better(metric) else floor
    with svg.look():
        picture = _dotted(dots, bold, floor, rows)
    left = len(block.rows) - len(rows)
    more = f" The best {len(rows)} of {len(block.rows)} rows are drawn." if left else ""
    dashes = " Dashed: the best answer that looks at no pixel." if floor is not None else ""
    what = f"{named(metric)}{' and rank' if any(row.standing for row in rows) else ''}"
    filled = "; filled: the top tier" if any(bold) else ""
    own = _with_intervals([each.interval.low is not None for each in bounds])
    return Shown(f"{what}{own}{filled}.{dashes}{more}", picture)


def dotted(dots: Dots) -> Shown:
    """Draw numbers with intervals."""
    with svg.look():
        picture = _dotted(dots, [True] * len(dots.rows), None, ())
    own = _with_intervals([low is not None for *_, low, _ in dots.rows])
    return Shown(f"{dots.title}: {dots.x_label}{own}.", picture)


def curve(picture: Picture) -> Shown:
    """Draw curves with their bands."""
    words = {"title": picture.title, "xlabel": picture.x_label, "ylabel": picture.y_label}
    clean = {name: safe(word) for name, word in words.items()}
    curves = {cut(safe(name)): own for name, own in picture.curves.items()}
    drawn = curve_picture.drawn(curves, clean, kind=".svg", look=svg.LOOK)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{x:.3g} gives {number(s.mean)}" for x, s in _points(own))
        for name, own in curves.items()
    )
    caption = (
        f"{picture.y_label} against {picture.x_label}{_drawn_of(list(picture.curves.values()))}."
    )
    return Shown(caption, svg.element(drawn, clean["title"], told))


def _drawn_of(curves: Sequence[Curve]) -> str:
    """Tell what is drawn of curves beside their means."""
    intervals = _with_intervals([curve_picture.has_intervals(each) for each in curves])
    fitted = [each.fit is not None for each in curves]
    if not any(fitted):
        return f"{intervals}; straight lines join the means"
    rest = "" if all(fitted) else "; a straight line joins the means where none could be fitted"
    return f"{intervals} and fitted laws{rest}"


def _with_intervals(drawn: Sequence[bool]) -> str:
    """Tell of which rows or curves an interval is drawn."""
    if all(drawn):
        return " with 95 % intervals"
    return " with 95 % intervals where there are any" if any(drawn) else " without intervals"


def _points(own: Curve) -> Iterator[tuple[float, Summary]]:
    return zip(own.x.tolist(), own.summaries, strict=True)


def _dotted(dots: Dots, bold: Sequence[bool], floor: float | None, ranked: Sequence[Row]) -> Markup:
    import seaborn as sns
    from matplotlib.figure import Figure

    ranked = ranked if any(row.standing for row in ranked) else ()
    height = 0.9 + ROW_INCH * len(dots.rows)
    figure = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
    wide = {"width_ratios": [2.2, 1]} if ranked else None
    axes = figure.subplots(1, 2 if ranked else 1, sharey=True, squeeze=False, gridspec_kw=wide)[0]
    accent = sns.color_palette("colorblind")[0]
    for y, ((_, mean, low, high), top) in enumerate(zip(dots.rows, bold, strict=True)):
        _dot(axes[0], y, (mean, low, high), top, accent)
    if floor is not None:
        axes[0].axvline(floor, color=svg.INK, linestyle="dashed", linewidth=0.8)
    axes[0].set_yticks(range(len(dots.rows)), [cut(safe(name)) for name, *_ in dots.rows])
    axes[0].set_ylim(len(dots.rows) - 0.4, -0.6)
    axes[0].set_xlabel(dots.x_label)
    for y, row in enumerate(ranked):
        own = row.standing
        if own is not None:
            _dot(axes[1], y, (own.rank, own.rank_low, own.rank_high), own.top, accent)
    if ranked:
        axes[1].set_xlabel("rank")
        axes[1].xaxis.get_major_locator().set_params(integer=True)
    for each in axes:
        each.grid(axis="y", color=svg.INK, alpha=0.12, linewidth=0.6)
        each.tick_params(left=False)
        sns.despine(ax=each, left=True)
    told = "; ".join(
        f"{safe(name)} {number(mean)}"
        + ("" if low is None else f" [{number(low)}, {number(high)}]")
        for name, mean, low, high in dots.rows
    )
    return svg.inline(figure, safe(dots.title), told)


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
    """Give the style of a dot."""
    return "full" if full else "none"


def row_name(block: Block, row: Row) -> str:
    """Name a row by its backbone, and by its side where the block has the name twice."""
    twice = [each.backbone for each in block.rows].count(row.backbone) > 1
    px = f" at {part(row.record, 'view')['px']} px" if twice else ""
    return safe(row.backbone + px)


def safe(text: str) -> str:
    """Leave folders out of a text."""
    return without_folders(text)


def cut(text: str) -> str:
    """Shorten a name beside an axis."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
