"""The worst images of a run as pictures: what is found, false positive and false negative."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from bench.board import lower_is_better, metric_of
from bench.command import of_record
from bench.errors import BenchError
from bench.figures.masks import outlined, overlaid
from bench.kept import read_mask, scored_images
from bench.record import Record
from bench.store import Store, mask_path

SIDE_PX = 384  # of a picture on the page
QUALITY = 85


@dataclass(frozen=True)
class Overlay:
    """One image of the first draw: its score, and pictures as data: URIs."""

    image: str
    patient: str
    score: float
    truth: Markup
    found: Markup


@dataclass(frozen=True)
class Overlays:
    """The worst images of a run, or why they are not shown and what cures it."""

    shown: Sequence[Overlay] = ()
    reason: str = ""
    command: str = ""


def overlays(
    record: Record, store: Store, data: Path | None, *, metric: str, count: int = 4
) -> Overlays:
    """Draw the images with the worst scores of the first draw, which is what masks are kept of."""
    masks = store.folder(record.run_id) / "masks"
    if not masks.is_dir():
        command = f"{of_record(record)} --save-masks"
        return Overlays(reason="No masks were saved of this run. To make them:", command=command)
    values = record.scores(metric_of(metric), metric)[0]  # (n,)
    order = np.argsort(-values if lower_is_better(metric) else values, kind="stable")[:count]
    try:
        samples = {sample.id: sample for sample in scored_images(record, data).samples}
        shown = []
        for i in order.tolist():
            image = record.images[i]
            picture, instances = samples[image].read()
            mask = read_mask(mask_path(masks, record.draws[0], image), instances.shape)
            pictures = outlined(picture, instances), overlaid(picture, instances, mask)
            truth, found = map(_uri, pictures)
            shown.append(Overlay(image, record.patients[image], float(values[i]), truth, found))
    except BenchError as error:
        command = "bench report --data DIR"
        return Overlays(reason=f"The images could not be read: {error}", command=command)
    return Overlays(shown)


def _uri(picture: np.ndarray) -> Markup:
    """Write a picture as a data: URI: base64 holds nothing that a page must escape."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE_PX, SIDE_PX))
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Markup("data:image/jpeg;base64,") + Markup(base64.b64encode(file.getvalue()).decode())
