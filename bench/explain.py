"""A sheet of pictures: the images on which two runs differ most, and what each run makes of them.

Found, false positive and false negative pixels are drawn in colours that colour-blind readers tell
apart (Okabe and Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.board import dataset_name, label, scores_of_images
from bench.figures.scale import scale_bar
from bench.kept import Kept, scored_images
from bench.pairs import Contrast, ImagePair, by_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {  # of a predicted and a true pixel
    "found": (0, 114, 178),
    "false positive": (240, 228, 66),
    "false negative": (213, 94, 0),
}
CONTOUR = (0, 0, 0)
OPACITY = 0.55
INCH_PX = 110  # of the sheet
PANEL_INCH = 2.6


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of the sheet.

    Attributes:
        picture: (H, W, 3) uint8 RGB, as it is without a shift.
        instances: (H, W) int32, the truth.
        masks: (H, W) bool, what the two runs predict.
        scores: of the two runs, of the draw that the masks are of.
        mpp: micrometres per pixel; None where it is not known.
    """

    image: str
    patient: str
    picture: np.ndarray
    instances: np.ndarray
    masks: tuple[np.ndarray, np.ndarray]
    scores: tuple[float, float]
    mpp: float | None = None


def gather(found: Contrast, count: int, results: Path, data_dir: Path | None) -> list[Panel]:
    """Read the images on which two runs differ most, and their masks.

    Of few-shot runs the first draw is shown, so its scores tell which images those are.

    Raises:
        BenchError: masks were not saved, the data set is not there, or is another one.
    """
    chosen = _first_draw(found)[:count]
    images = [each.image for each in chosen]
    masks = Kept.of((found.a, found.b), images, results, data_dir)
    samples = {sample.id: sample for sample in scored_images(found.a, data_dir).samples}
    panels = []
    for each in chosen:
        picture, instances = samples[each.image].read()
        one, other = masks.read(each.image, instances.shape)
        panels.append(
            Panel(
                image=each.image,
                patient=each.patient,
                picture=picture,
                instances=instances,
                masks=(one, other),
                scores=(each.a, each.b),
                mpp=samples[each.image].mpp,
            )
        )
    return panels


def sheet(found: Contrast, panels: Sequence[Panel]) -> bytes:
    """Draw the sheet: image, truth, and the two runs, a row an image; a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    heads = ["image", "truth", f"A: {label(found.a)}", f"B: {label(found.b)}"]
    figure = Figure(
        figsize=(4 * PANEL_INCH, len(panels) * (PANEL_INCH + 0.35) + 1.2),
        dpi=INCH_PX,
        layout="constrained",
    )
    grid = figure.subplots(len(panels), 4, squeeze=False)
    for number, (panel, axes) in enumerate(zip(panels, grid, strict=True)):
        pictures = [panel.picture, outlined(panel.picture, panel.instances)]
        pictures += [overlaid(panel.picture, panel.instances, mask) for mask in panel.masks]
        words = [f"{panel.image} (patient {panel.patient})", f"{_nuclei(panel)} nuclei"]
        words += [f"{found.metric} {score:.3f}" for score in panel.scores]
        for place, picture, below, head in zip(axes, pictures, words, heads, strict=True):
            _show(place, picture, below, "" if number else head)
        scale_bar(axes[0], panel.picture.shape, panel.mpp)
    figure.suptitle(_plain(_title(found)), fontsize=9)
    keys = [
        Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor="black", label=f"{name} pixels")
        for name, (r, g, b) in COLOURS.items()
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    FigureCanvasAgg(figure)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "cmd-bench"})
    return file.getvalue()


def outlined(picture: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Draw the outline of each true nucleus into a picture; it is not changed."""
    drawn = picture.copy()
    drawn[outline(instances)] = CONTOUR
    return drawn


def outline(instances: np.ndarray) -> np.ndarray:
    """Find the pixels of nuclei that touch something else: (H, W) bool."""
    framed = np.pad(instances, 1, mode="edge")
    inner = framed[1:-1, 1:-1]
    sides = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    return (inner != 0) & np.any([side != inner for side in sides], axis=0)


def overlaid(picture: np.ndarray, instances: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colour what a mask finds, its false positives and negatives, over a grey picture."""
    grey = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)  # (H, W, 3)
    truth = instances != 0
    areas = {
        "found": mask & truth,
        "false positive": mask & ~truth,
        "false negative": ~mask & truth,
    }
    for name, area in areas.items():
        grey[area] = (1 - OPACITY) * grey[area] + OPACITY * np.array(COLOURS[name])
    return grey.round().astype(np.uint8)


def _show(axes: Axes, picture: np.ndarray, below: str, head: str) -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(_plain(below), fontsize=7)
    axes.set_title(_plain(head), fontsize=8)


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollars as formulas."""
    return text.replace("$", r"\$")


def _title(found: Contrast) -> str:
    draw = " ".join(f"{key} {value}" for key, value in found.a.draws[0])
    where = f"{dataset_name(found.a)}{f', {draw}' if draw else ''}"
    return f"{where}: A {found.a.run_id}, B {found.b.run_id}; where {found.metric} differs most"


def _nuclei(panel: Panel) -> int:
    return len(np.unique(panel.instances[panel.instances != 0]))


def _first_draw(found: Contrast) -> list[ImagePair]:
    """Give what the first draw scores on every image, those that differ most first."""
    one, other = (scores_of_images(run, found.metric)[0] for run in (found.a, found.b))  # (n,) each
    scored = {
        image: {"a": float(x), "b": float(y)}
        for image, x, y in zip(found.a.images, one, other, strict=True)
    }
    return by_difference([replace(each, **scored[each.image]) for each in found.images])
