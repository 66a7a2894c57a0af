"""Figure of image, truth and the masks of several runs (arXiv:2605.08276, Figure 2)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.board.comparable import why_not
from bench.board.compare import Contrast, by_difference
from bench.board.scores import dataset_name, label, scores_of_images
from bench.board.select import ambiguous, comparable_choices, list_runs, select_runs
from bench.errors import BenchError
from bench.figures.boxes import Box, disagreement, find
from bench.figures.canvas import Canvas, remove_ticks, show
from bench.figures.overlay import legend_handles, outlined, overlaid
from bench.figures.saved_masks import SavedMasks, scored_images
from bench.figures.scale import scale_bar
from bench.figures.style import SMALL_PT, image_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SCORE = "dice"
BOX_COLOUR = "#117733"
MARGIN_INCH, TEXT_INCH = 0.2, 0.2  # left of a row, and below it


@dataclass(frozen=True)
class Selection:
    """The images to show.

    Attributes:
        images: ids of images; if empty, the images on which the runs differ most.
        count: number of images if `images` is empty.
        boxes: largest number of boxes per image.
    """

    images: tuple[str, ...] = ()
    count: int = 2
    boxes: int = 2


@dataclass(frozen=True, eq=False)
class MaskRow:
    """One image of the figure.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        instances: (H, W) int32, the truth.
        masks: one per run, (H, W) bool.
        scores: one per run, of the same draw as the masks.
        boxes: squares of largest disagreement, largest first.
        mpp: micrometres per pixel; None if unknown.
    """

    image: str
    patient: str
    pixels: np.ndarray
    instances: np.ndarray
    masks: tuple[np.ndarray, ...]
    scores: tuple[float, ...]
    boxes: tuple[Box, ...] = ()
    mpp: float | None = None


def choose(
    records: Sequence[Record],
    words: Sequence[str],
    options: BoardOptions,
    preferred: Container[str] | None = None,
) -> tuple[Record, ...]:
    """Find one run for each word, an id or a backbone, such that all runs are comparable.

    Args:
        records: the runs to choose from.
        words: ids of runs or names of backbones.
        options: filters of the runs, and what may differ between them.
        preferred: ids of runs to prefer, if all chosen runs can be among them.

    Raises:
        BenchError: no choice, or more than one choice, is possible.
    """
    candidates = [select_runs(records, word, options) for word in words]
    choices = comparable_choices(records, words, options, preferred)
    if len(choices) == 1:
        return choices[0]
    if choices:
        raise ambiguous(choices, words)
    listed = list_runs([run for runs in candidates for run in runs])
    first, *others = [runs[0] for runs in candidates]
    reasons = [why for other in others for why in why_not(first, other, options.vary)]
    raise BenchError(
        f"runs of {', '.join(words)} are not comparable:\n{listed}\n"
        f"{'; '.join(dict.fromkeys(reasons)) or 'one run is named twice'}."
    )


def select(
    runs: Sequence[Record], selection: Selection, results: Path, data_dir: Path | None
) -> list[MaskRow]:
    """Select images, and read them and their masks. Few-shot runs show their first draw.

    Raises:
        BenchError: an image is unknown, masks were not saved, or the data set is not found.
    """
    scores = first_scores(runs, SCORE)  # (runs, images)
    images = selection.images or _most_different(runs[0].images, scores, selection.count)
    if unknown := [image for image in images if image not in runs[0].patients]:
        raise BenchError(
            f"the runs scored no image {unknown[0]!r}; they scored {', '.join(runs[0].images[:8])}"
            f"{' and more' if len(runs[0].images) > 8 else ''}."
        )
    return [
        replace(
            row, boxes=tuple(find(disagreement(row.instances != 0, row.masks), selection.boxes))
        )
        for row in read_rows(runs, images, scores, results, data_dir)
    ]


def read_rows(
    runs: Sequence[Record],
    images: Sequence[str],
    scores: np.ndarray,
    results: Path,
    data_dir: Path | None,
) -> list[MaskRow]:
    """Read images, their truth and the masks of the first draw of each run, without boxes.

    Args:
        runs: runs on the same images.
        images: ids of the images to read.
        scores: (runs, images) of all images of the runs.
        results: folder of the runs.
        data_dir: folder of the data set; None for the usual folder.

    Raises:
        BenchError: masks were not saved, or the data set is not found or was changed.
    """
    masks = SavedMasks.of(runs, images, results, data_dir)
    samples = {sample.id: sample for sample in scored_images(runs[0], data_dir).samples}
    rows = []
    for image in images:
        pixels, instances = samples[image].read()
        rows.append(
            MaskRow(
                image=image,
                patient=runs[0].patients[image],
                pixels=pixels,
                instances=instances,
                masks=masks.read(image, instances.shape),
                scores=tuple(scores[:, runs[0].images.index(image)].tolist()),
                mpp=samples[image].mpp,
            )
        )
    return rows


def draw(runs: Sequence[Record], rows: Sequence[MaskRow], canvas: Canvas) -> None:
    """Draw one row per image: the image, the truth and the mask of each run, with boxes.

    If an image has boxes, a second row shows the first of them enlarged.
    """
    from matplotlib.patches import Patch

    columns = 2 + len(runs)
    side = (canvas.width - MARGIN_INCH) / columns
    heights: list[float] = []
    for row in rows:
        heights.append(side * row.pixels.shape[0] / row.pixels.shape[1])
        heights += [side] if row.boxes else []
    # what is unusual about a run goes on a second line
    titles = ["image", "truth", *(label(run).replace(" (", "\n(", 1) for run in runs)]
    with canvas.figure(sum(heights) + TEXT_INCH * len(heights) + 0.7) as figure:
        grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        lines = iter(grid)
        for number, row in enumerate(rows):
            draw_row(next(lines), row, SCORE, titles=[""] * columns if number else titles)
            if row.boxes:
                _draw_enlarged(next(lines), row)
        figure.suptitle(_figure_title(runs[0]), fontsize=SMALL_PT)
        box_label = "where predictions differ most"
        box = Patch(facecolor="none", edgecolor=BOX_COLOUR, label=box_label)
        handles = [*legend_handles(), box]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=SMALL_PT
        )


def draw_row(line: Sequence[Axes], row: MaskRow, score: str, *, titles: Sequence[str]) -> None:
    """Draw the image, the truth and the masks of a row into the axes of a line.

    Args:
        line: two axes more than there are masks.
        row: what to draw.
        score: name of `row.scores`.
        titles: one per axes.
    """
    from matplotlib.patches import Rectangle

    texts = ["", f"{len(np.unique(row.instances[row.instances != 0]))} nuclei"]
    texts += [f"{score} {value:.3f}" for value in row.scores]
    for axes, panel, text, title in zip(line, _panels(row), texts, titles, strict=True):
        show(axes, panel, title, text)
        for box in row.boxes:
            corner = (box.left - 0.5, box.top - 0.5)
            style = {"fill": False, "edgecolor": BOX_COLOUR, "linewidth": 1.3}
            axes.add_patch(Rectangle(corner, box.side, box.side, **style))
    line[0].set_ylabel(f"{row.image} (patient {row.patient})", fontsize=SMALL_PT)
    scale_bar(line[0], row.pixels.shape, row.mpp)


def _draw_enlarged(line: Sequence[Axes], row: MaskRow) -> None:
    """Draw the first box of every panel, enlarged."""
    box = row.boxes[0]
    for axes, panel in zip(line, _panels(row), strict=True):
        axes.imshow(panel[box.where], interpolation="nearest")
        remove_ticks(axes)
        for spine in axes.spines.values():
            spine.set(edgecolor=BOX_COLOUR, linewidth=1.3)
    factor = row.pixels.shape[1] / box.side
    line[0].set_ylabel(f"box 1, {factor:.1f} times", fontsize=SMALL_PT)
    scale_bar(line[0], (box.side, box.side), row.mpp)


def _panels(row: MaskRow) -> list[np.ndarray]:
    overlays = [overlaid(row.pixels, row.instances, mask) for mask in row.masks]
    return [row.pixels, outlined(row.pixels, row.instances), *overlays]


def _figure_title(run: Record) -> str:
    draw = " ".join(f"{key} {value}" for key, value in run.draws[0])
    return " · ".join(
        [
            dataset_name(run),
            run.spec.protocol.name + (f", {draw}" if draw else ""),
            f"{run.spec.head.name} head",
        ]
    )


def first_scores(runs: Sequence[Record], score: str) -> np.ndarray:
    """Return a score of the first draw of runs on the same images, (runs, images)."""
    return np.stack([scores_of_images(run, score)[0] for run in runs])


def _most_different(images: Sequence[str], scores: np.ndarray, count: int) -> tuple[str, ...]:
    """Return the images with the largest range of scores; for one run, the lowest scores."""
    spread = scores.max(axis=0) - scores.min(axis=0) if len(scores) > 1 else -scores[0]
    order = sorted(range(len(images)), key=lambda i: (-spread[i], images[i]))
    return tuple(images[i] for i in order[:count])


SHEET_DPI = 110
PANEL_INCH = 2.6


def gather(contrast: Contrast, count: int, results: Path, data_dir: Path | None) -> list[MaskRow]:
    """Read the images on which two runs differ most, and their masks.

    Images are ordered by the scores of the first draw, from which the masks are.

    Args:
        contrast: the comparison of the two runs.
        count: number of images.
        results: folder of the runs.
        data_dir: folder of the data set; None for the usual folder.

    Raises:
        BenchError: masks were not saved, or the data set is not found or was changed.
    """
    runs = (contrast.a, contrast.b)
    scores = first_scores(runs, contrast.metric)  # (2, images)
    by_image = dict(zip(contrast.a.images, scores.T.tolist(), strict=True))
    pairs = [
        replace(pair, a=by_image[pair.image][0], b=by_image[pair.image][1])
        for pair in contrast.images
    ]
    images = [pair.image for pair in by_difference(pairs)[:count]]
    return read_rows(runs, images, scores, results, data_dir)


def sheet(contrast: Contrast, rows: Sequence[MaskRow]) -> bytes:
    """Draw image, truth and the masks of two runs, one row per image, as the bytes of a PNG."""
    from matplotlib.figure import Figure

    titles = ["image", "truth", f"A: {label(contrast.a)}", f"B: {label(contrast.b)}"]
    file = BytesIO()
    with image_style():
        figure = Figure(
            figsize=(4 * PANEL_INCH, len(rows) * (PANEL_INCH + 0.35) + 1.2),
            dpi=SHEET_DPI,
            layout="constrained",
        )
        grid = figure.subplots(len(rows), 4, squeeze=False)
        for number, (row, line) in enumerate(zip(rows, grid, strict=True)):
            draw_row(line, row, contrast.metric, titles=[""] * 4 if number else titles)
        figure.suptitle(_sheet_title(contrast), fontsize=SMALL_PT)
        figure.legend(handles=legend_handles(), loc="outside lower center", ncols=3)
        figure.savefig(file, format="png", metadata={"Software": "cmd-bench"})
    return file.getvalue()


def _sheet_title(contrast: Contrast) -> str:
    runs = f"A {contrast.a.run_id}, B {contrast.b.run_id}"
    draw = " ".join(f"{key} {value}" for key, value in contrast.a.draws[0])
    where = f"{dataset_name(contrast.a)}{f', {draw}' if draw else ''}"
    return f"{where}: {runs}; where {contrast.metric} differs most"
