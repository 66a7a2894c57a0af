"""Figure of image, truth and the masks of several runs (arXiv:2605.08276, Figure 2)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.board.comparable import why_not
from bench.board.scores import dataset_name, label, scores_of_images
from bench.board.select import ambiguous, comparable_choices, list_runs, select_runs
from bench.errors import BenchError
from bench.figures.boxes import Box, disagreement, find
from bench.figures.canvas import Canvas, remove_ticks, show
from bench.figures.overlay import legend_handles, outlined, overlaid
from bench.figures.saved_masks import mask_files, read_mask, scored_images
from bench.figures.scale import scale_bar
from bench.figures.style import SMALL_PT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BOX_COLOUR = "#117733"
MARGIN_INCH, TEXT_INCH = 0.2, 0.2  # left of a row, and below it


@dataclass(frozen=True)
class Selection:
    """The images to show.

    Attributes:
        images: ids of images; if empty, the images on which the runs differ most.
        count: number of images if `images` is empty.
        boxes: largest number of boxes per image.
        score: name of the score that is compared and shown.
    """

    images: tuple[str, ...] = ()
    count: int = 2
    boxes: int = 2
    score: str = "dice"


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
    """Select images, and read them, their truth and their masks.

    Few-shot runs show the scores and masks of their first draw.

    Args:
        runs: runs on the same images.
        selection: which images.
        results: folder of the runs.
        data_dir: folder of the data set; None for the usual folder.

    Raises:
        BenchError: an image is unknown, masks were not saved, or the data set is not found or was
            changed.
    """
    scores = np.stack([scores_of_images(run, selection.score)[0] for run in runs])  # (runs, images)
    scored = runs[0].images
    images = selection.images or _most_different(scored, scores, selection.count)
    if unknown := [image for image in images if image not in scored]:
        raise BenchError(
            f"the runs scored no image {unknown[0]!r}; they scored {', '.join(scored[:8])}"
            f"{' and more' if len(scored) > 8 else ''}."
        )
    files = mask_files(runs, images, results, data_dir)
    samples = {sample.id: sample for sample in scored_images(runs[0], data_dir).samples}
    rows = []
    for image, image_files in zip(images, files, strict=True):
        pixels, instances = samples[image].read()
        masks = tuple(read_mask(path, instances.shape) for path in image_files)
        rows.append(
            MaskRow(
                image=image,
                patient=runs[0].patients[image],
                pixels=pixels,
                instances=instances,
                masks=masks,
                scores=tuple(scores[:, scored.index(image)].tolist()),
                boxes=tuple(find(disagreement(instances != 0, masks), selection.boxes)),
                mpp=samples[image].mpp,
            )
        )
    return rows


def draw(
    runs: Sequence[Record],
    rows: Sequence[MaskRow],
    canvas: Canvas,
    *,
    score: str = "dice",
    names: Sequence[str] = (),
) -> None:
    """Draw one row per image: the image, the truth and the mask of each run, with boxes.

    If an image has boxes, a second row shows the first of them enlarged.

    Args:
        score: name of the scores of the rows.
        names: of the runs, above their masks; by default their labels.
    """
    from matplotlib.patches import Patch

    columns = 2 + len(runs)
    side = (canvas.width - MARGIN_INCH) / columns
    heights: list[float] = []
    for row in rows:
        heights.append(side * row.pixels.shape[0] / row.pixels.shape[1])
        heights += [side] if row.boxes else []
    names = names or [label(run) for run in runs]
    # what is unusual about a run goes on a second line
    titles = ["image", "truth", *(name.replace(" (", "\n(", 1) for name in names)]
    with canvas.figure(sum(heights) + TEXT_INCH * len(heights) + 0.7) as figure:
        grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        lines = iter(grid)
        for number, row in enumerate(rows):
            _draw_row(next(lines), row, score, titles=[""] * columns if number else titles)
            if row.boxes:
                _draw_enlarged(next(lines), row)
        figure.suptitle(_figure_title(runs[0]), fontsize=SMALL_PT)
        handles = legend_handles()
        if any(row.boxes for row in rows):
            box_label = "where predictions differ most"
            handles.append(Patch(facecolor="none", edgecolor=BOX_COLOUR, label=box_label))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=SMALL_PT
        )


def _draw_row(line: Sequence[Axes], row: MaskRow, score: str, *, titles: Sequence[str]) -> None:
    """Draw the image, the truth and the masks of a row into the axes of a line."""
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


def _most_different(images: Sequence[str], scores: np.ndarray, count: int) -> tuple[str, ...]:
    """Return the images with the largest range of scores; for one run, the lowest scores."""
    spread = scores.max(axis=0) - scores.min(axis=0) if len(scores) > 1 else -scores[0]
    order = sorted(range(len(images)), key=lambda i: (-spread[i], images[i]))
    return tuple(images[i] for i in order[:count])
