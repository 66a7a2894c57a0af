"""Masks side by side: image, truth and what each run makes of it (arXiv 2605.08276, Figure 2)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.alike import unlike
from bench.board import BoardOptions, dataset_name, label, part, scores_of_images
from bench.errors import BenchError
from bench.explain import COLOURS, outlined, overlaid
from bench.figures.boxes import Box, disagreement, find
from bench.figures.canvas import SMALL_PT, Canvas, bare, show
from bench.figures.scale import scale_bar
from bench.kept import Kept, scored_images
from bench.pick import comparable, named, told, too_many
from bench.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

SCORE = "dice"
BOX_COLOUR = "#117733"
MARGIN_INCH, WORDS_INCH = 0.2, 0.2  # left of a row, and below it


@dataclass(frozen=True)
class Asked:
    """Which images are shown.

    Attributes:
        images: their ids; empty takes those on which the runs differ most.
        count: how many, where no id is given.
        boxes: at most so many boxes an image.
    """

    images: tuple[str, ...] = ()
    count: int = 2
    boxes: int = 2


@dataclass(frozen=True, eq=False)
class Row:
    """One image of the figure.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        instances: (H, W) int32, the truth.
        masks: (H, W) bool, one a run.
        scores: `dice`, one a run, of the draw that the masks are of.
        mpp: micrometres per pixel; None where it is not known.
    """

    image: str
    patient: str
    picture: np.ndarray
    instances: np.ndarray
    masks: tuple[np.ndarray, ...]
    scores: tuple[float, ...]
    boxes: tuple[Box, ...]
    mpp: float | None = None


def choose(
    records: Sequence[Record],
    words: Sequence[str],
    options: BoardOptions,
    kept: Container[str] | None = None,
) -> tuple[Record, ...]:
    """Find one run for each word, an id or a backbone, so that all may be compared.

    Args:
        kept: ids of the runs that are taken where all can be of them.

    Raises:
        BenchError: there is no such choice, or there are several.
    """
    found = [named(records, word, options) for word in words]
    choices = comparable(records, words, options, kept)
    if len(choices) == 1:
        return choices[0]
    if choices:
        raise too_many(choices, words)
    listed = told([run for runs in found for run in runs])
    runs = [each[0] for each in found]
    reasons = [why for other in runs[1:] for why in unlike(runs[0], other, options.vary)]
    raise BenchError(
        f"no runs of {', '.join(words)} may be compared:\n{listed}\n"
        f"{'; '.join(dict.fromkeys(reasons)) or 'one run is named twice'}."
    )


def gather(runs: Sequence[Record], asked: Asked, results: Path, data_dir: Path | None) -> list[Row]:
    """Read the images, their masks, and find what is boxed.

    Of few-shot runs the first draw is shown.

    Raises:
        BenchError: an image is unknown, masks were not saved, or the data set is not there.
    """
    scores = _scores(runs)  # (runs, images)
    ids = asked.images or _most_different(runs[0].images, scores, asked.count)
    if unknown := [each for each in ids if each not in runs[0].patients]:
        raise BenchError(
            f"the runs scored no image {unknown[0]!r}; they scored {', '.join(runs[0].images[:8])}"
            f"{' and more' if len(runs[0].images) > 8 else ''}."
        )
    masks = Kept.of(runs, ids, results, data_dir)
    samples = {sample.id: sample for sample in scored_images(runs[0], data_dir).samples}
    rows = []
    for image in ids:
        picture, instances = samples[image].read()
        own = masks.read(image, instances.shape)
        place = runs[0].images.index(image)
        rows.append(
            Row(
                image=image,
                patient=runs[0].patients[image],
                picture=picture,
                instances=instances,
                masks=own,
                scores=tuple(float(each) for each in scores[:, place]),
                boxes=tuple(find(disagreement(instances != 0, own), asked.boxes)),
                mpp=samples[image].mpp,
            )
        )
    return rows


def draw(runs: Sequence[Record], rows: Sequence[Row], canvas: Canvas) -> None:
    """Draw a row an image: the image, the truth, and a prediction a run, boxed alike.

    Below it the first box of each is enlarged, where there is one.
    """
    columns = 2 + len(runs)
    side = (canvas.width - MARGIN_INCH) / columns
    heights: list[float] = []
    for row in rows:
        heights.append(side * row.picture.shape[0] / row.picture.shape[1])
        heights += [side] if row.boxes else []
    heads = ["image", "truth", *map(_head, runs)]
    with canvas.figure(sum(heights) + WORDS_INCH * len(heights) + 0.7) as figure:
        grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        lines = iter(grid)
        for number, row in enumerate(rows):
            pictures = _pictures(row)
            _whole(next(lines), row, pictures, [""] * columns if number else heads)
            if row.boxes:
                _enlarged(next(lines), row, pictures)
        figure.suptitle(_title(runs[0]), fontsize=SMALL_PT)
        keys = _keys()
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=SMALL_PT)


def _pictures(row: Row) -> list[np.ndarray]:
    masks = [overlaid(row.picture, row.instances, mask) for mask in row.masks]
    return [row.picture, outlined(row.picture, row.instances), *masks]


def _whole(
    places: Sequence[Axes], row: Row, pictures: Sequence[np.ndarray], heads: Sequence[str]
) -> None:
    words = ["", f"{len(np.unique(row.instances[row.instances != 0]))} nuclei"]
    words += [f"{SCORE} {score:.3f}" for score in row.scores]
    for axes, picture, below, head in zip(places, pictures, words, heads, strict=True):
        show(axes, picture, head, below)
        _box(axes, row.boxes)
    places[0].set_ylabel(f"{row.image} (patient {row.patient})", fontsize=SMALL_PT)
    scale_bar(places[0], row.picture.shape, row.mpp)


def _enlarged(places: Sequence[Axes], row: Row, pictures: Sequence[np.ndarray]) -> None:
    """Show the first box of each picture as large as a picture."""
    box = row.boxes[0]
    for axes, picture in zip(places, pictures, strict=True):
        axes.imshow(picture[box.where], interpolation="nearest")
        bare(axes)
        for spine in axes.spines.values():
            spine.set(edgecolor=BOX_COLOUR, linewidth=1.3)
    times = row.picture.shape[1] / box.side
    places[0].set_ylabel(f"box 1, {times:.1f} times", fontsize=SMALL_PT)
    scale_bar(places[0], (box.side, box.side), row.mpp)


def _keys() -> list[Patch]:
    from matplotlib.patches import Patch

    own = [
        Patch(facecolor=_shares(colour), edgecolor="black", linewidth=0.5, label=name)
        for name, colour in COLOURS.items()
    ]
    words = "where predictions differ most"
    return [*own, Patch(facecolor="none", edgecolor=BOX_COLOUR, label=words)]


def _box(axes: Axes, boxes: Sequence[Box]) -> None:
    from matplotlib.patches import Rectangle

    for box in boxes:
        corner = (box.left - 0.5, box.top - 0.5)
        look = {"fill": False, "edgecolor": BOX_COLOUR, "linewidth": 1.3}
        axes.add_patch(Rectangle(corner, box.side, box.side, **look))


def _shares(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (each / 255 for each in colour)
    return red, green, blue


def _head(run: Record) -> str:
    """Name a run: its backbone, and what is unusual about it on a line of its own."""
    return label(run).replace(" (", "\n(", 1)


def _title(run: Record) -> str:
    draw = " ".join(f"{key} {value}" for key, value in run.draws[0])
    return " · ".join(
        [
            dataset_name(run),
            str(part(run, "protocol")["name"]) + (f", {draw}" if draw else ""),
            f"{part(run, 'head')['name']} head",
        ]
    )


def _scores(runs: Sequence[Record]) -> np.ndarray:
    """Give the score of the first draw: (runs, images)."""
    return np.stack([scores_of_images(run, SCORE)[0] for run in runs])


def _most_different(images: Sequence[str], scores: np.ndarray, count: int) -> tuple[str, ...]:
    """Choose images by the span of their scores; of a single run by the lowest score."""
    spread = scores.max(axis=0) - scores.min(axis=0) if len(scores) > 1 else -scores[0]
    order = sorted(range(len(images)), key=lambda i: (-spread[i], images[i]))
    return tuple(images[i] for i in order[:count])
