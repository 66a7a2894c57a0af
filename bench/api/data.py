"""Images, labels, predictions and counts: what flows between data sets, heads and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.api.options import option

Counts = Mapping[str, float]
"""The raw counts of one image, by name; scores are computed from them and never stored."""


Progress = Callable[[str, int, int], None]
"""Progress callback: takes the stage, the number of finished steps and their total."""


@dataclass(frozen=True)
class Sample:
    """One labelled image. Pixels are read on demand and not stored.

    Attributes:
        id: unique within its data set.
        split: "train", "val" or "test".
        patient: images of one patient share it; resampling and folds go by patient.
        organ: organ or tissue; "" if unknown.
        mpp: micrometres per pixel; None if unknown.
        fingerprint: sha256 (hex) over the bytes of image and label.
        read: returns the image, (H, W, 3) uint8 RGB, and the instances, (H, W) int32 with 0 for
            background.
        size: height and width of the image in pixels; None if unknown before it is read.
    """

    id: str
    split: str
    patient: str
    organ: str
    mpp: float | None
    fingerprint: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]] = field(repr=False, compare=False)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Labelled:
    """One image of an official release, as `Dataset.release` yields it."""

    id: str
    image: np.ndarray  # (H, W, 3) uint8 RGB
    instances: np.ndarray  # (H, W) integer, 0 = background
    split: str
    patient: str
    organ: str = ""
    magnification: str = "unknown"  # "20x", "40x" or "unknown"


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a head for an image, at native resolution.

    Attributes:
        mask: (H, W) bool, the foreground.
        probability: (H, W) float32 in [0, 1], that of the foreground.
    """

    mask: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class FolderInfo:
    """Options that describe a folder of images and labels; None if not set.

    Attributes:
        table: CSV file with one row per image.
        organ, magnification: values for all images.
        test_share: fraction of the patients that is drawn for the test split.
        seed: seed of this draw.
    """

    table: Path | None = option(
        None, "A CSV file with the columns id, patient and optionally split, organ, magnification."
    )
    organ: str | None = option(None, "The organ of all images.")
    magnification: str | None = option(
        None, "The magnification of all images: 20x, 40x or unknown (default)."
    )
    test_share: float | None = option(
        None, "The fraction of the patients that is drawn for the test split. Default: 0.3."
    )
    seed: int | None = option(None, "The seed of the drawn split. Default: 0.")
