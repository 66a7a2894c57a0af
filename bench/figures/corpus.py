"""What a set of images is made of: a donut of organs or sources (arXiv 2605.08276, Figure B1)."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.figures.canvas import SMALL_PT, TITLE_PT, Canvas, palette
from bench.manifest import content_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colour = str | tuple[float, float, float]

USUAL = ("organ", "source")  # the columns that are looked for, in this order
OTHER, OTHER_COLOUR = "other", "#b0b0b0"
UNKNOWN = ("", "?", "unknown")
SMALLEST_SHARE, MOST_SLICES = 0.02, 10
LABELLED_SHARE = 0.06  # of slices with their percentage written on them
A_ROW = 3  # donuts
LINE_INCH = 0.16  # of a legend
RING = 0.42  # its width, of the radius


@dataclass(frozen=True)
class Corpus:
    """How many images of a folder are of what.

    Attributes:
        by: what they are told apart by.
        counts: by name, the most first.
    """

    name: str
    by: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The number of images."""
        return sum(self.counts.values())


def read(folder: Path, by: str | None) -> Corpus:
    """Count the images of a folder by a column of its manifest; without one, by their folders.

    What the manifest leaves open ("", "?") is counted as unknown. No pixels are read.

    Args:
        by: a column; None takes organ, else source.

    Raises:
        BenchError: there are no images, no such column, or the manifest cannot be read.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        return _without_manifest(folder, by)
    try:
        lines = csv.DictReader(io.StringIO(content_of(path).decode("utf-8-sig"), newline=""))
        columns, entries = lines.fieldnames or (), list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchError(
            f"{path} cannot be read as comma-separated UTF-8 text: {error}."
        ) from error
    column = by or next((each for each in USUAL if each in columns), None)
    if column is None or column not in columns:
        asked = f"no column {by!r}" if by else "neither the column organ nor source"
        raise BenchError(f"{path} has {asked}; --by takes one of {', '.join(columns)}.")
    if columns.count(column) > 1:
        raise BenchError(f"{path} has two columns {column}: rename or delete one.")
    values = [(entry[column] or "").strip() for entry in entries]
    return _counted(folder, column, ["unknown" if each in UNKNOWN else each for each in values])


def _without_manifest(folder: Path, by: str | None) -> Corpus:
    from bench.pretrain.tiles import find_tiles

    if by not in (None, "folder"):
        raise BenchError(f"{folder} has no manifest.csv with a column {by!r}: use --by folder.")
    if not folder.exists():
        raise BenchError(f"there is no folder {folder}.")
    tops = [tile.name.partition("/") for tile in find_tiles(folder)]
    return _counted(folder, "folder", [top if rest else "." for top, _, rest in tops])


def _counted(folder: Path, by: str, values: Sequence[str]) -> Corpus:
    if not values:
        raise BenchError(f"{folder} holds no images: its manifest.csv has no rows.")
    counts = sorted(Counter(values).items(), key=lambda each: (-each[1], each[0]))
    return Corpus(folder.resolve().name, by, dict(counts))


def slices(corpus: Corpus) -> list[tuple[str, int]]:
    """Give what is drawn, the most first: small and further ones are added up in "other", last.

    One alone that is small stays as it is.
    """
    own = [(name, count) for name, count in corpus.counts.items() if name != OTHER]
    large = [each for each in own if each[1] >= SMALLEST_SHARE * corpus.total]
    kept = large[: MOST_SLICES - 1]
    rest = own[len(kept) :]
    if len(rest) == 1 and OTHER not in corpus.counts and len(kept) < MOST_SLICES:
        kept, rest = own, []
    others = sum(count for _, count in rest) + corpus.counts.get(OTHER, 0)
    return kept + ([(OTHER, others)] if others else [])


def draw(corpora: Sequence[Corpus], canvas: Canvas) -> None:
    """Draw a donut for each, with the total in the middle, counts and percentages beside.

    The same name has the same colour in every donut of the same column.
    """
    drawn = [slices(each) for each in corpora]
    colours = _colours(corpora, drawn)
    one = len(corpora) == 1
    columns, rows = min(A_ROW, len(corpora)), math.ceil(len(corpora) / A_ROW)
    side = canvas.width / (2 if one else columns)
    keys = LINE_INCH * max(len(own) for own in drawn) + 0.2
    shape = (1, 2) if one else (2 * rows, columns)
    ratios = None if one else [side, keys] * rows
    with canvas.figure(side + 0.2 if one else rows * (side + keys)) as figure:
        grid = figure.subplots(*shape, squeeze=False, height_ratios=ratios)
        for axes in grid.flat:
            axes.axis("off")
        for number, (corpus, own) in enumerate(zip(corpora, drawn, strict=True)):
            row, column = divmod(number, columns)
            key = grid[0, 1] if one else grid[2 * row + 1, column]
            wedges = _donut(grid[0 if one else 2 * row, column], corpus, own, colours[number])
            labels = [f"{name}  {count:,} ({count / corpus.total:.1%})" for name, count in own]
            place = "center left" if one else "upper center"
            key.legend(wedges, labels, loc=place, fontsize=SMALL_PT, handlelength=1)


def _colours(
    corpora: Sequence[Corpus], drawn: Sequence[Sequence[tuple[str, int]]]
) -> list[dict[str, Colour]]:
    """Give the colours of each donut: a name has the same in all that are told apart alike."""
    names: dict[str, dict[str, None]] = {}
    for corpus, own in zip(corpora, drawn, strict=True):
        names.setdefault(corpus.by, {}).update({name: None for name, _ in own if name != OTHER})
    known: dict[str, dict[str, Colour]] = {
        by: dict(zip(own, palette(len(own)), strict=True)) | {OTHER: OTHER_COLOUR}
        for by, own in names.items()
    }
    return [known[each.by] for each in corpora]


def _donut(
    axes: Axes, corpus: Corpus, own: Sequence[tuple[str, int]], colours: Mapping[str, Colour]
) -> Sequence[Any]:
    wedges, *_ = axes.pie(
        [count for _, count in own],
        colors=[colours[name] for name, _ in own],
        startangle=90,
        counterclock=False,
        wedgeprops={"width": RING, "edgecolor": "white", "linewidth": 1.0},
    )
    for wedge, (_, count) in zip(wedges, own, strict=True):
        if count >= LABELLED_SHARE * corpus.total:
            angle = math.radians((wedge.theta1 + wedge.theta2) / 2)
            x, y = ((1 - RING / 2) * each(angle) for each in (math.cos, math.sin))
            share = f"{count / corpus.total:.0%}"
            axes.text(x, y, share, ha="center", va="center", fontsize=SMALL_PT, color=_ink(wedge))
    axes.text(0, 0.05, f"{corpus.total:,}", ha="center", va="center", fontsize=12)
    axes.text(0, -0.12, "images", ha="center", va="center", fontsize=SMALL_PT)
    axes.set_title(f"{corpus.name} by {corpus.by}", fontsize=TITLE_PT, pad=4)
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    return wedges


def _ink(wedge: object) -> str:
    """Choose black or white, whichever is read better on a wedge."""
    red, green, blue, _ = wedge.get_facecolor()  # pyright: ignore
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.4 else "white"
