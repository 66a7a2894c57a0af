"""Plot of score against model size, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api.board import Block, Row
from bench.api.report import Cell
from bench.board.scores import lower_is_better
from bench.figures import curves
from bench.render.runs import named
from bench.report import svg
from bench.report.figures import MOST_ROWS, WIDTH_INCH, Shown, cut, fill, row_name, safe

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

MOST_NAMED = 12  # with more points, only those on the front are labelled
LOWEST_INCH = 3.1
FRAME_INCH = 0.6  # above and below the axes
NAME_INCH = 0.17  # distance between two labels beside the axes


@dataclass(frozen=True)
class Model:
    """A point of the plot: name, parameters, mean score, and whether it is on the Pareto front."""

    name: str
    size: int
    mean: float
    best: bool


def cost(block: Block) -> Shown | None:
    """Plot the score against the parameters of backbone and head, with the Pareto front.

    Returns:
        None if all models have the same size.
    """
    metric = next(iter(block.rows[0].scores))
    points = _points(block, metric)
    if len({point.size for point in points}) < 2:
        return None
    front = sorted((point for point in points if point.best), key=lambda point: point.size)
    description = "; ".join(f"{point.name} {Cell(point.mean)}" for point in front)
    with svg.look():
        title = f"Score against size: {block.title}"
        picture = _plot(points, front, named(metric), (title, description))
    if len(front) == 1:
        return Shown("Score against size. Filled: the Pareto-optimal row.", picture)
    legend = "Filled, and joined by the line: the Pareto-optimal rows."
    return Shown(f"Score against size. {legend}", picture)


def _points(block: Block, metric: str) -> list[Model]:
    values = [
        (row_name(block, row), size, mean)
        for row in block.rows[:MOST_ROWS]
        if (size := _parameters(row)) and (mean := row.scores[metric].summary.mean) is not None
    ]
    front = _front([(size, mean) for _, size, mean in values], lower_is_better(metric))
    return [Model(*value, index in front) for index, value in enumerate(values)]


def _plot(
    points: Sequence[Model], front: Sequence[Model], score: str, alt: tuple[str, str]
) -> Markup:
    """Plot the points; `alt` is a title and a description of the front, for screen readers."""
    import seaborn as sns
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    labelled = [point for point in points if point.best or len(points) <= MOST_NAMED]
    height = max(LOWEST_INCH, FRAME_INCH + NAME_INCH * (len(labelled) + 1))
    figure = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
    axes = figure.add_subplot()
    accent = sns.color_palette("colorblind")[0]
    if len(front) > 1:
        sizes, means = [point.size for point in front], [point.mean for point in front]
        axes.plot(sizes, means, color=accent, drawstyle="steps-post", linewidth=1)
    for point in points:
        colour, style = accent if point.best else svg.INK, fill(point.best)
        axes.plot(point.size, point.mean, "o", color=colour, markersize=4, fillstyle=style)
    axes.set(xscale="log", xlabel="parameters of backbone and head", ylabel=score)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: curves.short(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08, y=0.12)
    _label(axes, labelled, NAME_INCH / (height - FRAME_INCH))
    sns.despine(ax=axes)
    return svg.inline(figure, safe(alt[0]), f"Pareto front: {alt[1]}")


def _label(axes: Axes, points: Sequence[Model], gap: float) -> None:
    """Label points beside the axes without overlap, with a line to each point.

    Args:
        gap: distance between two labels, as a fraction of the height of the axes.
    """
    low, high = axes.get_ylim()
    rising = sorted(points, key=lambda point: (point.mean, -point.size))
    heights = spread([(point.mean - low) / (high - low) for point in rising], gap)
    for point, height in zip(rising, heights, strict=True):
        axes.annotate(
            cut(point.name),
            (point.size, point.mean),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops={
                "arrowstyle": "-",
                "color": svg.INK,
                "alpha": 0.3,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights in [0, 1] so that neighbours are at least `gap` apart."""
    raised: list[float] = []
    for height in heights:
        raised.append(max(height, raised[-1] + gap) if raised else height)
    tops = [1 - gap * place for place in reversed(range(len(raised)))]
    return [min(height, top) for height, top in zip(raised, tops, strict=True)]


def _parameters(row: Row) -> int:
    counts = [row.record.facts.get(f"{name}_parameters") for name in ("backbone", "head")]
    return sum(count for count in counts if isinstance(count, int))


def _front(points: Sequence[tuple[int, float]], lower_is_better: bool) -> list[int]:
    """Return the indices of the Pareto-optimal points: no other has lower size and better score."""
    sign = -1 if lower_is_better else 1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or sign * points[i][1] > sign * points[front[-1]][1]:
            front.append(i)
    return front
