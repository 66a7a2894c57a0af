"""Figure of frozen features of one image: components, clusters and cosine similarity to an anchor.

Figure 3 of arXiv:2605.08276 shows the cosine similarity for transformers and clusters for CMD. This
figure shows both, and principal components, for every network at the resolution of its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.figures import anchor, dense
from bench.figures.canvas import Canvas, palette, remove_ticks, show
from bench.figures.overlay import outlined
from bench.figures.scale import mpp_of, scale_bar
from bench.figures.style import SMALL_PT, TITLE_PT
from bench.models.options import is_random

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.api import Dataset, Progress
    from bench.api.run_config import RunConfig

COSINE_MAP = "RdBu_r"
CROSS: dict[str, Any] = {"marker": "+", "markersize": 9, "markeredgewidth": 1.6}
ROWS = ("principal components", "clusters", "cosine to +")


@dataclass(frozen=True, eq=False)
class Subject:
    """The image whose features are shown.

    Attributes:
        name: title of the figure.
        pixels: (H, W, 3) uint8 RGB.
        instances: (H, W) int32, the truth; None if there are no labels.
        anchor: the pixel (y, x) that others are compared with.
        dataset: the data set of the image, which sets the side of the input.
        mpp: micrometres per pixel; None if unknown.
    """

    name: str
    pixels: np.ndarray
    instances: np.ndarray | None
    anchor: tuple[int, int]
    dataset: Dataset
    mpp: float | None = None


@dataclass(frozen=True, eq=False)
class FeatureView:
    """Visualisations of the features of one network, at h x w positions.

    Attributes:
        name: of the network.
        clusters: (h, w) int; numbers correspond between networks.
        components: (h, w, 3) in [0, 1].
        cosine: (h, w) in [-1, 1].
        side: of the square input, in pixels.
        channels: of the joined feature maps.
    """

    name: str
    clusters: np.ndarray
    components: np.ndarray
    cosine: np.ndarray
    side: int
    channels: int


def of_dataset(name: str, data_dir: Path | None, image: str | None, place: str | None) -> Subject:
    """Read an image of a labelled data set.

    Args:
        name: of the data set, or its folder.
        data_dir: folder of data sets; None for the usual one.
        image: id of the image; None for the first test image.
        place: the anchor as "X,Y"; None for a nucleus near the middle.

    Raises:
        BenchError: the data set or the image is unknown, or there is no anchor.
    """
    from bench.data import find

    handle = find.find(name, data_dir)
    samples = {sample.id: sample for sample in handle.samples}
    if image is None:
        image = next((s.id for s in handle.samples if s.split == "test"), handle.samples[0].id)
    if image not in samples:
        examples = ", ".join(list(samples)[:8])
        raise BenchError(f"{handle.name} has no image {image!r}; it has {examples}, ...")
    pixels, instances = samples[image].read()
    _check_not_uniform(image, pixels)
    pixel = anchor.parse(place, instances.shape) if place else anchor.on_nucleus(instances)
    mpp = samples[image].mpp
    return Subject(f"{handle.name} {image}", pixels, instances, pixel, handle.dataset, mpp)


def of_file(path: Path, place: str | None) -> Subject:
    """Read any image file; `place` is the anchor as "X,Y".

    Raises:
        BenchError: the file is damaged or not an 8-bit RGB image, or `place` is None.
    """
    from bench.api import Dataset
    from bench.data.decode import decode_image
    from bench.data.manifest import content_of

    pixels = decode_image(content_of(path), path)
    _check_not_uniform(path.name, pixels)
    height, width = pixels.shape[:2]
    if place is None:
        raise BenchError(
            f"{path.name} has no labels, so the anchor is not known: set the pixel of a nucleus by "
            f"--anchor X,Y ({width} x {height} px)."
        )
    pixel = anchor.parse(place, (height, width))
    return Subject(path.name, pixels, None, pixel, Dataset(name=""), mpp_of(path))


def _check_not_uniform(name: str, pixels: np.ndarray) -> None:
    if (pixels == pixels[0, 0]).all():
        raise BenchError(f"all pixels of {name} are of one colour: choose an image with content.")


def compute(
    configs: Sequence[RunConfig], subject: Subject, count: int, progress: Progress
) -> list[FeatureView]:
    """Visualise the features of each backbone; clusters are matched to those of the first.

    Args:
        configs: weights, options, device and side of the input of each backbone.
        subject: the image.
        count: number of clusters.
        progress: is called before each backbone and at the end.

    Raises:
        BenchError: a backbone cannot be opened, or its features are constant or not finite.
    """
    views: list[FeatureView] = []
    for done, config in enumerate(configs):
        progress("features", done, len(configs))
        try:
            view = _compute_one(config, subject, count)
        except BenchError as error:
            raise BenchError(f"{config.backbone}: {error}") from error
        if views:
            labels = dense.matched(view.clusters, views[0].clusters, count)
            view = replace(view, clusters=labels)
        views.append(view)
    progress("features", len(configs), len(configs))
    return views


def _compute_one(config: RunConfig, subject: Subject, count: int) -> FeatureView:
    import torch

    from bench.features.forward import ExtractorRunner
    from bench.features.views import View
    from bench.runs.input_size import side_of
    from bench.runs.resolve import device_named
    from bench.runs.session import load_backbone

    opened = load_backbone(config, subject.dataset)
    side, device = side_of(config, opened, subject.dataset), device_named(config.device)
    runner = ExtractorRunner(opened.extractor.to(device), View("whole", side), device)
    with torch.inference_mode():
        maps = runner(runner.view.cut_image(subject.pixels))  # [(1, C_i, h_i, w_i), ...]
    features = dense.joined(maps)  # (h, w, C)
    height, width = features.shape[:2]
    brightness = View("whole", height).cut_image(subject.pixels)[0].mean(dim=0).numpy()  # (h, w)
    y, x = subject.anchor
    position = (y * height // subject.pixels.shape[0], x * width // subject.pixels.shape[1])
    labels = dense.clusters(features, count)
    return FeatureView(
        name=_name(config),
        clusters=dense.by_darkness(labels, brightness, count),
        components=dense.components(features, brightness),
        cosine=dense.cosine(features, position),
        side=side,
        channels=features.shape[2],
    )


def _name(config: RunConfig) -> str:
    """Return the name of a backbone without the path of its weights."""
    name, _, source = config.backbone.partition("@")
    return f"{name} ({source or 'random'})" if config.random or is_random(source) else name


def draw(subject: Subject, views: Sequence[FeatureView], count: int, canvas: Canvas) -> None:
    """Draw the image, its truth and legends in the first column, then a column per network."""
    columns = 1 + len(views)
    aspect = subject.pixels.shape[0] / subject.pixels.shape[1]
    side = (canvas.width - 0.2) / columns
    with canvas.figure(3 * side * aspect + 0.75) as figure:
        grid = figure.subplots(3, columns, squeeze=False)
        show(grid[0, 0], subject.pixels, "image")
        scale_bar(grid[0, 0], subject.pixels.shape, subject.mpp)
        if subject.instances is None:
            grid[1, 0].axis("off")
        else:
            show(grid[1, 0], outlined(subject.pixels, subject.instances), "truth")
        grid[2, 0].axis("off")
        for view, column in zip(views, grid.T[1:], strict=True):
            height, width = view.clusters.shape
            text = f"{height} × {width} positions, {view.channels} channels"
            _draw_column(column, view, subject, count)
            column[0].set_title(view.name, fontsize=TITLE_PT, pad=3)
            column[2].set_xlabel(text, fontsize=SMALL_PT, labelpad=2)
        for axes in (grid[0, 0], *grid[2, 1:]):
            _draw_cross(axes, subject.anchor)
        for axes, row_name in zip(grid[:, 1], ROWS, strict=True):
            axes.set_ylabel(row_name, fontsize=SMALL_PT, labelpad=2)
        _draw_legends(figure, grid[2, 0], count)
        figure.suptitle(subject.name, fontsize=SMALL_PT)


def _draw_column(column: Sequence[Axes], view: FeatureView, subject: Subject, count: int) -> None:
    """Draw components, clusters and cosine similarity of a network over the image's extent."""
    height, width = subject.pixels.shape[:2]
    colours = np.array(palette(count))
    style: dict[str, Any] = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    style["interpolation"] = "nearest"
    column[0].imshow(view.components, **style)
    column[1].imshow(colours[view.clusters], **style)
    column[2].imshow(view.cosine, cmap=COSINE_MAP, vmin=-1, vmax=1, **style)
    for axes in column:
        remove_ticks(axes)


def _draw_cross(axes: Axes, pixel: tuple[int, int]) -> None:
    """Mark the anchor (y, x), with a white rim for contrast on dark backgrounds."""
    rim: dict[str, Any] = CROSS | {"markeredgewidth": 3.0, "markersize": 10.5}
    axes.plot(pixel[1], pixel[0], color="white", **rim)
    axes.plot(pixel[1], pixel[0], color="black", **CROSS)


def _draw_legends(figure: Figure, axes: Axes, count: int) -> None:
    """Draw the legend of the clusters and the colour bar of the cosine."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, label=f"cluster {number}")
        for number, colour in enumerate(palette(count), start=1)
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        ncols=2,
        fontsize=SMALL_PT,
        title="1: darkest part of the image",
        title_fontsize=SMALL_PT,
    )
    inset = axes.inset_axes((0.1, 0.22, 0.8, 0.07))
    scale = ScalarMappable(Normalize(-1, 1), COSINE_MAP)
    bar = figure.colorbar(scale, cax=inset, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_label("cosine to the feature at +", fontsize=SMALL_PT, labelpad=1)
    bar.ax.tick_params(labelsize=SMALL_PT, length=2, pad=1)
