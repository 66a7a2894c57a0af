"""Donut chart of the composition of a folder of images (arXiv:2605.08276, Figure B1)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.manifest import read_table
from bench.errors import BenchError
from bench.figures.canvas import Canvas, palette
from bench.figures.style import SMALL_PT, TITLE_PT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colour = str | tuple[float, float, float]

DEFAULT_COLUMNS = ("organ", "source")  # in order of preference
OTHER, OTHER_COLOUR = "other", "#b0b0b0"
UNKNOWN = ("", "?", "unknown")
SMALLEST_SHARE, MOST_SLICES = 0.02, 10
LABELLED_SHARE = 0.03  # slices of a smaller share get no percentage
DONUTS_PER_ROW = 3
LINE_INCH = 0.16  # height of a line of a legend
RING = 0.42  # width of the ring as a share of the radius


@dataclass(frozen=True)
class Corpus:
    """The numbers of images of a folder by category.

    Attributes:
        name: of the folder.
        by: the column of the manifest, or "folder".
        counts: images by category, the most frequent first.
    """

    name: str
    by: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The number of images."""
        return sum(self.counts.values())


def read(folder: Path, by: str | None) -> Corpus:
    """Count the images of a folder by a column of its manifest, or by subfolder without manifest.

    Empty values and "?" are counted as unknown. No pixels are read.

    Args:
        folder: the folder of images.
        by: a column; None for organ, or source if there is no column organ.

    Raises:
        BenchError: there are no images, no such column, or the manifest cannot be read.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        return _without_manifest(folder, by)
    columns, entries = read_table(path)
    column = by or next((name for name in DEFAULT_COLUMNS if name in columns), None)
    if column is None or column not in columns:
        missing = f"no column {by!r}" if by else "neither the column organ nor source"
        raise BenchError(f"{path} has {missing}; --by takes one of {', '.join(columns)}.")
    values = [(entry[column] or "").strip() for entry in entries]
    return _count(folder, column, ["unknown" if value in UNKNOWN else value for value in values])


def _without_manifest(folder: Path, by: str | None) -> Corpus:
    from bench.pretrain.tiles import find_tiles

    if by not in (None, "folder"):
        raise BenchError(f"{folder} has no manifest.csv with a column {by!r}: use --by folder.")
    if not folder.exists():
        raise BenchError(f"there is no folder {folder}.")
    parts = [tile.name.partition("/") for tile in find_tiles(folder).tiles]
    return _count(folder, "folder", [top if rest else "." for top, _, rest in parts])


def _count(folder: Path, by: str, values: Sequence[str]) -> Corpus:
    if not values:
        raise BenchError(f"{folder} has no images: its manifest.csv has no rows.")
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    return Corpus(folder.resolve().name, by, dict(counts))


def slices(corpus: Corpus) -> list[tuple[str, int]]:
    """Return categories and counts of the slices, the most frequent first, "other" last.

    Categories of a small share, and those beyond `MOST_SLICES`, are summed as "other". If that is
    a single category, it keeps its name.
    """
    categories = [(name, count) for name, count in corpus.counts.items() if name != OTHER]
    large = [item for item in categories if item[1] >= SMALLEST_SHARE * corpus.total]
    shown = large[: MOST_SLICES - 1]
    rest = categories[len(shown) :]
    if len(rest) == 1 and OTHER not in corpus.counts and len(shown) < MOST_SLICES:
        shown, rest = categories, []
    others = sum(count for _, count in rest) + corpus.counts.get(OTHER, 0)
    return shown + ([(OTHER, others)] if others else [])


def draw(corpora: Sequence[Corpus], canvas: Canvas) -> None:
    """Draw a donut per corpus, with the total in the middle and a legend of counts.

    A category has the same colour in all donuts of the same column.
    """
    slices_of = [slices(corpus) for corpus in corpora]
    colours = _colours(corpora, slices_of)
    single = len(corpora) == 1
    columns = min(DONUTS_PER_ROW, len(corpora))
    rows = math.ceil(len(corpora) / DONUTS_PER_ROW)
    side = canvas.width / (2 if single else columns)
    legend_inch = LINE_INCH * max(len(items) for items in slices_of) + 0.2
    shape = (1, 2) if single else (2 * rows, columns)
    ratios = None if single else [side, legend_inch] * rows
    with canvas.figure(side + 0.2 if single else rows * (side + legend_inch)) as figure:
        grid = figure.subplots(*shape, squeeze=False, height_ratios=ratios)
        for axes in grid.flat:
            axes.axis("off")
        for number, (corpus, items) in enumerate(zip(corpora, slices_of, strict=True)):
            row, column = divmod(number, columns)
            legend = grid[0, 1] if single else grid[2 * row + 1, column]
            donut = grid[0 if single else 2 * row, column]
            wedges = _draw_donut(donut, corpus, items, colours[number])
            labels = [f"{name}  {count:,} ({count / corpus.total:.1%})" for name, count in items]
            loc = "center left" if single else "upper center"
            legend.legend(wedges, labels, loc=loc, fontsize=SMALL_PT, handlelength=1)


def _colours(
    corpora: Sequence[Corpus], slices_of: Sequence[Sequence[tuple[str, int]]]
) -> list[dict[str, Colour]]:
    """Return the colours of the categories of each donut."""
    names: dict[str, dict[str, None]] = {}  # categories in order of appearance, by column
    for corpus, items in zip(corpora, slices_of, strict=True):
        names.setdefault(corpus.by, {}).update({name: None for name, _ in items if name != OTHER})
    colours: dict[str, dict[str, Colour]] = {
        by: dict(zip(categories, palette(len(categories)), strict=True)) | {OTHER: OTHER_COLOUR}
        for by, categories in names.items()
    }
    return [colours[corpus.by] for corpus in corpora]


def _draw_donut(
    axes: Axes, corpus: Corpus, items: Sequence[tuple[str, int]], colours: Mapping[str, Colour]
) -> Sequence[Any]:
    wedges, *_ = axes.pie(
        [count for _, count in items],
        colors=[colours[name] for name, _ in items],
        startangle=90,
        counterclock=False,
        wedgeprops={"width": RING, "edgecolor": "white", "linewidth": 1.0},
    )
    for wedge, (_, count) in zip(wedges, items, strict=True):
        if count >= LABELLED_SHARE * corpus.total:
            angle, radius = math.radians((wedge.theta1 + wedge.theta2) / 2), 1 - RING / 2
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            text, colour = f"{count / corpus.total:.0%}", _text_colour(wedge)
            axes.text(x, y, text, ha="center", va="center", fontsize=SMALL_PT, color=colour)
    axes.text(0, 0.05, f"{corpus.total:,}", ha="center", va="center", fontsize=12)
    axes.text(0, -0.12, "images", ha="center", va="center", fontsize=SMALL_PT)
    axes.set_title(f"{corpus.name} by {corpus.by}", fontsize=TITLE_PT, pad=4)
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    return wedges


def _text_colour(wedge: object) -> str:
    """Return black or white, whichever has more contrast with a wedge."""
    red, green, blue, _ = wedge.get_facecolor()  # pyright: ignore
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.4 else "white"
