"""Overlays of the worst images of a run: true positives, false positives, false negatives."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from bench.api.record import Record
from bench.board.scores import lower_is_better, scores_of_images
from bench.errors import BenchError
from bench.figures.overlay import outlined, overlaid
from bench.figures.saved_masks import read_mask, scored_images
from bench.runs.command import command_of
from bench.store.results import Store, mask_path

SIDE_PX = 384  # of an image on the page
QUALITY = 85


@dataclass(frozen=True)
class Overlay:
    """An image of the first draw with its score; `truth` and `prediction` are data: URIs."""

    image: str
    patient: str
    score: float
    truth: Markup
    prediction: Markup


@dataclass(frozen=True)
class Overlays:
    """The worst images of a run, or the reason they are not shown and the command to fix it."""

    shown: Sequence[Overlay] = ()
    reason: str = ""
    command: str = ""


def overlays(
    record: Record, store: Store, data: Path | None, *, metric: str, count: int = 4
) -> Overlays:
    """Draw the images with the worst scores of the first draw, the draw whose masks are saved."""
    masks = store.folder(record.run_id) / "masks"
    if not masks.is_dir():
        command = f"{command_of(record)} --save-masks"
        return Overlays(reason="No masks of this run were saved. To save them:", command=command)
    values = scores_of_images(record, metric)[0]  # (n,)
    order = np.argsort(-values if lower_is_better(metric) else values, kind="stable")[:count]
    try:
        samples = {sample.id: sample for sample in scored_images(record, data).samples}
        shown = []
        for i in order.tolist():
            image = record.images[i]
            pixels, instances = samples[image].read()
            mask = read_mask(mask_path(masks, record.draws[0], image), instances.shape)
            truth = _data_uri(outlined(pixels, instances))
            prediction = _data_uri(overlaid(pixels, instances, mask))
            patient, score = record.patients[image], float(values[i])
            shown.append(Overlay(image, patient, score, truth, prediction))
    except BenchError as error:
        command = "bench report --data DIR"
        return Overlays(reason=f"The images could not be read: {error}", command=command)
    return Overlays(shown)


def _data_uri(pixels: np.ndarray) -> Markup:
    """Encode an image as a data: URI. Base64 needs no escaping."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE_PX, SIDE_PX))
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Markup("data:image/jpeg;base64,") + Markup(base64.b64encode(file.getvalue()).decode())
