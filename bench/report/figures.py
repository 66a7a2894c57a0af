"""The figures of a report: forests, ranks, costs and curves. Nothing here is computed anew."""

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
            (_named(block, row), own.mean or 0.0, own.interval.low, own.interval.high)
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
    caption = f"{named(metric)} and rank with 95 % intervals; filled: the top tier.{dashes}{more}"
    return Shown(caption, picture)


def dotted(dots: Dots) -> Shown:
    """Draw numbers with intervals."""
    with svg.look():
        picture = _dotted(dots, [True] * len(dots.rows), None, ())
    return Shown(f"{dots.title}: {dots.x_label} with 95 % intervals", picture)


def cost(block: Block) -> Shown | None:
    """Draw the score against the parameters of backbone and head, with the Pareto front.

    None where fewer than two sizes are there.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    rows = block.rows[:MOST_ROWS]
    metric = next(iter(rows[0].scores))
    sizes = [_parameters(row) for row in rows]
    known = [
        (size, mean, row)
        for size, row in zip(sizes, rows, strict=True)
        if size and (mean := row.scores[metric].summary.mean) is not None
    ]
    if len({size for size, *_ in known}) < 2:
        return None
    front = _front([(size, mean) for size, mean, _ in known], lower_is_better(metric))
    with svg.look():
        import seaborn as sns

        figure = Figure(figsize=(WIDTH_INCH, 3.1), layout="constrained")
        axes = figure.add_subplot()
        ink, accent = svg.INK, sns.color_palette("colorblind")[0]
        best = sorted(known[i][:2] for i in front)
        axes.plot(*zip(*best, strict=True), color=accent, drawstyle="steps-post", linewidth=1)
        for i, (size, mean, row) in enumerate(known):
            colour = accent if i in front else ink
            axes.plot(size, mean, "o", color=colour, markersize=4, fillstyle=_fill(i in front))
            if i in front or len(known) <= 12:
                axes.annotate(
                    _cut(_named(block, row)),
                    (size, mean),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set(xscale="log", xlabel="parameters of backbone and head", ylabel=named(metric))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: curve_picture.short(x)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.12, y=0.12)
        sns.despine(ax=axes)
        told = "; ".join(f"{_named(block, known[i][2])} {number(known[i][1])}" for i in front)
        picture = svg.inline(figure, f"Cost and score: {_safe(block.title)}", f"On front: {told}")
    return Shown("Score against size; the line joins the rows that none beats in both.", picture)


def curve(picture: Picture) -> Shown:
    """Draw curves with their bands."""
    words = {"title": picture.title, "xlabel": picture.x_label, "ylabel": picture.y_label}
    safe = {name: _safe(word) for name, word in words.items()}
    curves = {_cut(_safe(name)): own for name, own in picture.curves.items()}
    drawn = curve_picture.drawn(curves, safe, kind=".svg", look=svg.LOOK)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{x:.3g} gives {number(s.mean)}" for x, s in _points(own))
        for name, own in curves.items()
    )
    caption = f"{picture.y_label} against {picture.x_label} with 95 % intervals and fitted laws"
    return Shown(caption, svg.element(drawn, safe["title"], told))


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
    axes[0].set_yticks(range(len(dots.rows)), [_cut(_safe(name)) for name, *_ in dots.rows])
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
        f"{_safe(name)} {number(mean)}"
        + ("" if low is None else f" [{number(low)}, {number(high)}]")
        for name, mean, low, high in dots.rows
    )
    return svg.inline(figure, _safe(dots.title), told)


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
    axes.plot(mean, y, "o", color=colour, markersize=5, fillstyle=_fill(top))


def _fill(full: bool) -> str:
    return "full" if full else "none"


def _parameters(row: Row) -> int:
    counted = [row.record.facts.get(f"{name}_parameters") for name in ("backbone", "head")]
    return sum(each for each in counted if isinstance(each, int))


def _front(points: Sequence[tuple[int, float]], lower_is_better: bool) -> list[int]:
    """Number the points that no other beats in both cost and score."""
    sign = -1 if lower_is_better else 1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or sign * points[i][1] > sign * points[kept[-1]][1]:
            kept.append(i)
    return kept


def _named(block: Block, row: Row) -> str:
    """Name a row by its backbone, and by its side where the block has the name twice."""
    twice = [each.backbone for each in block.rows].count(row.backbone) > 1
    px = f" at {part(row.record, 'view')['px']} px" if twice else ""
    return _safe(row.backbone + px)


def _safe(text: str) -> str:
    return without_folders(text)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
