"""The view and the input side of a run, and the images that they resize."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.api import Dataset, Sample
from bench.api.run_config import RunConfig
from bench.data.find import DatasetHandle
from bench.errors import BenchError
from bench.features.views import View, nearest_multiple
from bench.models.load import LoadedBackbone
from bench.runs.session import Session
from bench.runs.trial_plan import test_patients

MOST_SCALE = 1.5  # larger changes of the scale are reported
MOST_ASPECT = 1.1  # larger changes of the aspect ratio are reported


def with_view(
    config: RunConfig, handle: DatasetHandle, target: DatasetHandle, session: Session
) -> RunConfig:
    """Return the config with its view, and with the input side of small tiles.

    The default is `tiles` for a folder that is no registered data set, else `whole`. The default
    side of tiles is not larger than the largest image needs, so that small images are not padded.

    Raises:
        BenchError: see `Session.shape`.
    """
    is_users_folder = handle.root is not None and not handle.registered_name
    config = replace(config, view=config.view or ("tiles" if is_users_folder else "whole"))
    if config.view != "tiles" or config.input_px is not None:
        return config
    opened = session.shape(config, handle.dataset)
    return replace(config, input_px=usual_side(config, opened, handle, target))


def usual_side(
    config: RunConfig, opened: LoadedBackbone, handle: DatasetHandle, target: DatasetHandle
) -> int:
    """Return the side of the square input without --input-px, in pixels.

    Raises:
        BenchError: see `side_of`.
    """
    side = side_of(replace(config, input_px=None), opened, handle.dataset)
    sizes = [sample.size for sample in [*handle.samples, *target.samples]]
    if config.view != "tiles" or opened.backbone.input_px is not None or None in sizes:
        return side
    stride = max(opened.extractor.strides)
    largest = max(length for size in sizes if size for length in size)
    return min(side, math.ceil(largest / stride) * stride)


def side_of(config: RunConfig, opened: LoadedBackbone, dataset: Dataset) -> int:
    """Return the side of the square input for a backbone, in pixels.

    Raises:
        BenchError: the requested side does not fit the backbone.
    """
    stride = max(opened.extractor.strides)
    side = config.input_px or opened.backbone.input_px or dataset.input_px.get(stride)
    if side is None:
        return nearest_multiple(dataset.input_px[0], stride)
    if side % stride:
        fits = nearest_multiple(side, stride)
        raise BenchError(
            f"an input of {side} px does not fit {opened.backbone.name}, whose coarsest map has a "
            f"pixel for {stride} input pixels. Use --input-px {fits}."
        )
    return side


def data_facts(handle: DatasetHandle, target: DatasetHandle, view: View) -> dict[str, object]:
    """Return the facts of a record about its data.

    Returns:
        `official_test_patients`: their number in the training data set. `target_images`: the number
        of images of another scored data set, all splits. `resized`, if the view changes the scale
        or the aspect ratio of images much: see `resized`, by data set.
    """
    facts: dict[str, object] = {"official_test_patients": test_patients(handle.samples)}
    if target is not handle:
        facts["target_images"] = len(target.samples)
    changes = {each.name: resized(view, each.samples) for each in (handle, target)}
    resized_sets = {name: change for name, change in changes.items() if change}
    if resized_sets:
        facts["resized"] = resized_sets
    return facts


def resized(view: View, samples: Sequence[Sample]) -> Mapping[str, float] | None:
    """Describe the images whose scale or aspect ratio a view changes much; None if there are none.

    Returns:
        The number of these `images` among `of` images, the side `px`, and the largest change of the
        `scale` and of the `aspect` ratio of all images, both at least 1.
    """
    sizes = [sample.size for sample in samples if sample.size]
    if view.kind != "whole" or not sizes:
        return None
    scales = [max(view.px / min(size), max(size) / view.px) for size in sizes]
    aspects = [max(size) / min(size) for size in sizes]
    changes = zip(scales, aspects, strict=True)
    count = sum(scale > MOST_SCALE or aspect > MOST_ASPECT for scale, aspect in changes)
    if not count:
        return None
    largest = {"scale": round(max(scales), 2), "aspect": round(max(aspects), 2)}
    return {"images": count, "of": len(sizes), "px": view.px, **largest}
