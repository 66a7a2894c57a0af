"""What frozen features say of an image: clusters, components, and likeness to a nucleus.

Figure 3 of arXiv 2605.08276 shows the cosine to an anchor for networks of tokens and clusters for
CMD; here each network gets both, and its principal components, at its own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.explain import outlined
from bench.figures import anchor, dense
from bench.figures.canvas import SMALL_PT, TITLE_PT, Canvas, bare, palette, show
from bench.figures.scale import mpp_of, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.api import Dataset, Progress
    from bench.job import Request

LIKENESS = "RdBu_r"
CROSS: dict[str, Any] = {"marker": "+", "markersize": 9, "markeredgewidth": 1.6}
ROWS = ("principal components", "clusters", "cosine to +")


@dataclass(frozen=True, eq=False)
class Subject:
    """The image that is looked at.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        instances: (H, W) int32, the truth; None where there is none.
        anchor: the pixel (y, x) that others are compared with.
        dataset: what it is from, for the side of the input.
        mpp: micrometres per pixel; None where it is not known.
    """

    name: str
    picture: np.ndarray
    instances: np.ndarray | None
    anchor: tuple[int, int]
    dataset: Dataset
    mpp: float | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """What one network makes of the image, at h x w places.

    Attributes:
        clusters: (h, w) int, numbered alike in all networks.
        components: (h, w, 3) in [0, 1].
        likeness: (h, w) in [-1, 1].
        side: of the square input, in pixels.
    """

    name: str
    clusters: np.ndarray
    components: np.ndarray
    likeness: np.ndarray
    side: int
    channels: int


def of_dataset(name: str, data_dir: Path | None, image: str | None, place: str | None) -> Subject:
    """Take an image of a labelled set, by default its first test image with a nucleus.

    Raises:
        BenchError: the set or the image is unknown, or no anchor can be had.
    """
    from bench import data

    handle = data.find(name, data_dir)
    samples = {sample.id: sample for sample in handle.samples}
    if image is None:
        image = next((s.id for s in handle.samples if s.split == "test"), handle.samples[0].id)
    if image not in samples:
        known = ", ".join(list(samples)[:8])
        raise BenchError(f"{handle.name} has no image {image!r}; it has {known}, ...")
    picture, instances = samples[image].read()
    _refuse_one_colour(image, picture)
    at = anchor.parse(place, instances.shape) if place else anchor.on_nucleus(instances)
    mpp = samples[image].mpp
    return Subject(f"{handle.name} {image}", picture, instances, at, handle.dataset, mpp)


def of_file(path: Path, place: str | None) -> Subject:
    """Take any picture; without labels the user says where the anchor is.

    Raises:
        BenchError: the file is not a whole 8-bit RGB picture, or there is no anchor.
    """
    from bench.api import Dataset
    from bench.decode import decode_image
    from bench.manifest import content_of

    picture = decode_image(content_of(path), path)
    _refuse_one_colour(path.name, picture)
    height, width = picture.shape[:2]
    if place is None:
        raise BenchError(
            f"{path.name} has no labels to find a nucleus by: give the pixel of one, --anchor X,Y "
            f"({width} x {height} px)."
        )
    at = anchor.parse(place, (height, width))
    return Subject(path.name, picture, None, at, Dataset(name=""), mpp_of(path))


def _refuse_one_colour(name: str, picture: np.ndarray) -> None:
    if (picture == picture[0, 0]).all():
        raise BenchError(f"{name} is of one colour: there is nothing to see. Give another picture.")


def look(
    requests: Sequence[Request], subject: Subject, count: int, progress: Progress
) -> list[Look]:
    """Open each backbone and look at the image; clusters are numbered as the first one's.

    Args:
        requests: say which weights, options, device and side of the input.
        count: clusters.

    Raises:
        BenchError: a backbone cannot be opened, or its features tell nothing.
    """
    looks: list[Look] = []
    for done, request in enumerate(requests):
        progress("features", done, len(requests))
        try:
            own = _look(request, subject, count)
        except BenchError as error:
            raise BenchError(f"{request.backbone}: {error}") from error
        if looks:
            again = dense.matched(own.clusters, looks[0].clusters, count)
            own = replace(own, clusters=again)
        looks.append(own)
    progress("features", len(requests), len(requests))
    return looks


def _look(request: Request, subject: Subject, count: int) -> Look:
    import torch

    from bench.desk import opened_backbone
    from bench.fitting import device_named, side_of
    from bench.runner import Runner
    from bench.views import View

    opened = opened_backbone(request, subject.dataset)
    side, device = side_of(request, opened, subject.dataset), device_named(request.device)
    runner = Runner(opened.extractor.to(device), View("whole", side), device)
    with torch.inference_mode():
        maps = runner(runner.view.cut_image(subject.picture))  # [(1, C_i, h_i, w_i), ...]
    features = dense.joined(maps)  # (h, w, C)
    height, width = features.shape[:2]
    light = View("whole", height).cut_image(subject.picture)[0].mean(dim=0).numpy()  # (h, w)
    place = _scaled(subject.anchor, subject.picture.shape, (height, width))
    labels = dense.clusters(features, count)
    return Look(
        name=_name(request),
        clusters=dense.by_darkness(labels, light, count),
        components=dense.components(features, light),
        likeness=dense.likeness(features, place),
        side=side,
        channels=features.shape[2],
    )


def _name(request: Request) -> str:
    """Name a backbone without the path of its weights."""
    name, at, source = request.backbone.partition("@")
    random = request.random or (at and source == "random")
    return f"{name} (random)" if random else name


def _scaled(
    place: tuple[int, int], size: tuple[int, ...], grid: tuple[int, int]
) -> tuple[int, int]:
    """Give the place on a grid that holds a pixel of the image."""
    y, x = (at * cells // side for at, side, cells in zip(place, size, grid, strict=False))
    return y, x


def draw(subject: Subject, looks: Sequence[Look], count: int, canvas: Canvas) -> None:
    """Draw the image, its truth and the keys on the left, and a column for each network."""
    columns = 1 + len(looks)
    tall = subject.picture.shape[0] / subject.picture.shape[1]
    side = (canvas.width - 0.2) / columns
    with canvas.figure(3 * side * tall + 0.75) as figure:
        grid = figure.subplots(3, columns, squeeze=False)
        show(grid[0, 0], subject.picture, "image")
        scale_bar(grid[0, 0], subject.picture.shape, subject.mpp)
        _truth(grid[1, 0], subject)
        grid[2, 0].axis("off")
        for one, column in zip(looks, grid.T[1:], strict=True):
            height, width = one.clusters.shape
            below = f"{height} × {width} places, {one.channels} channels"
            _column(column, one, subject, count)
            column[0].set_title(one.name, fontsize=TITLE_PT, pad=3)
            column[2].set_xlabel(below, fontsize=SMALL_PT, labelpad=2)
        for axes in (grid[0, 0], *grid[2, 1:]):
            _cross(axes, subject.anchor)
        for axes, words in zip(grid[:, 1], ROWS, strict=True):
            axes.set_ylabel(words, fontsize=SMALL_PT, labelpad=2)
        _keys(figure, grid[2, 0], count)
        figure.suptitle(subject.name, fontsize=SMALL_PT)


def _column(column: Sequence[Axes], one: Look, subject: Subject, count: int) -> None:
    """Draw the three pictures of a network over the extent of the image."""
    height, width = subject.picture.shape[:2]
    colours = np.array(palette(count))
    place: dict[str, Any] = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    place["interpolation"] = "nearest"
    column[0].imshow(one.components, **place)
    column[1].imshow(colours[one.clusters], **place)
    column[2].imshow(one.likeness, cmap=LIKENESS, vmin=-1, vmax=1, **place)
    for axes in column:
        bare(axes)


def _truth(axes: Axes, subject: Subject) -> None:
    if subject.instances is None:
        axes.axis("off")
        return
    show(axes, outlined(subject.picture, subject.instances), "truth")


def _cross(axes: Axes, place: tuple[int, int]) -> None:
    """Mark the anchor, with a white rim so that it is seen on every ground."""
    rim: dict[str, Any] = CROSS | {"markeredgewidth": 3.0, "markersize": 10.5}
    axes.plot(place[1], place[0], color="white", **rim)
    axes.plot(place[1], place[0], color="black", **CROSS)


def _keys(figure: Figure, axes: Axes, count: int) -> None:
    """Explain the colours in the empty corner."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    keys = [
        Patch(facecolor=colour, label=f"cluster {number}")
        for number, colour in enumerate(palette(count), start=1)
    ]
    axes.legend(
        handles=keys,
        loc="upper center",
        ncols=2,
        fontsize=SMALL_PT,
        title="1: where the image is darkest",
        title_fontsize=SMALL_PT,
    )
    inset = axes.inset_axes((0.1, 0.22, 0.8, 0.07))
    scale = ScalarMappable(Normalize(-1, 1), LIKENESS)
    bar = figure.colorbar(scale, cax=inset, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_label("cosine to the feature at +", fontsize=SMALL_PT, labelpad=1)
    bar.ax.tick_params(labelsize=SMALL_PT, length=2, pad=1)
