"""Corruptions of test images: stain, blur, JPEG, brightness and scale, each in three strengths.

Training images and labels are not changed.

Shapes: H and W height and width of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bench.errors import BenchError

STRENGTHS = (1, 2, 3)
# Optical density of haematoxylin, eosin and DAB in R, G and B (Ruifrok and Johnston, Analytical and
# Quantitative Cytology and Histology 23, 2001, table 1).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


@dataclass(frozen=True)
class Shift:
    """A corruption of an image.

    Attributes:
        name: for example "blur-2".
        title: description with units.
        apply: maps an image (H, W, 3) uint8 to the corrupted image of the same shape and dtype.
        undo: maps logits (K, H, W) of the corrupted image to the geometry of the original.
    """

    name: str
    title: str
    apply: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    undo: Callable[[Tensor], Tensor] = field(repr=False, default=lambda logits: logits)


def shift(name: str) -> Shift:
    """Return the shift with this name.

    Raises:
        BenchError: unknown name.
    """
    if name not in SHIFTS:
        raise BenchError(f"unknown shift {name!r}. Choose one of {', '.join(SHIFTS)}.")
    return SHIFTS[name]


def stained(image: np.ndarray, haematoxylin: float, eosin: float) -> np.ndarray:
    """Multiply the concentrations of two stains in optical density (Beer-Lambert law)."""
    vectors = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)  # (3 stains, 3 colours)
    density = -np.log((image.astype(float) + 1) / 256)  # (H, W, 3)
    amounts = density @ np.linalg.inv(vectors)  # (H, W, 3 stains)
    changed = (amounts * [haematoxylin, eosin, 1.0]) @ vectors  # (H, W, 3)
    return _as_image(256 * np.exp(-changed) - 1)


def blurred(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Blur with a Gaussian filter."""
    return _as_image(gaussian_filter(image.astype(float), (sigma_px, sigma_px, 0), mode="nearest"))


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode as JPEG of this quality."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def lit(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the intensities."""
    return _as_image(image.astype(float) * factor)


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """Downscale the image and pad it by reflection to its original size."""
    height, width = image.shape[:2]
    top, left, rows, columns = _window(height, width, factor)
    small = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    padding = ((top, height - rows - top), (left, width - columns - left), (0, 0))
    return np.pad(small, padding, mode="symmetric")


def grown(logits: Tensor, factor: float) -> Tensor:
    """Crop the downscaled image of `shrunk` from logits (K, H, W), and resize it to (K, H, W)."""
    height, width = logits.shape[-2:]
    top, left, rows, columns = _window(height, width, factor)
    crop = logits[None, :, top : top + rows, left : left + columns]
    return F.interpolate(crop, (height, width), mode="bilinear", align_corners=False)[0]


def _window(height: int, width: int, factor: float) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the downscaled image, centred in the original."""
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _as_image(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _all_shifts() -> Mapping[str, Shift]:
    shifts: list[Shift] = []
    for strength in STRENGTHS:
        share = 0.15 * strength
        sigma_px, quality = (0.5, 1.0, 2.0)[strength - 1], (60, 30, 15)[strength - 1]
        factor = (0.85, 0.7, 0.5)[strength - 1]
        shifts += [
            Shift(
                f"stain-{strength}",
                f"haematoxylin x {1 + share:.2f}, eosin x {1 - share:.2f}",
                lambda image, share=share: stained(image, 1 + share, 1 - share),
            ),
            Shift(
                f"blur-{strength}",
                f"Gaussian blur of {sigma_px} px",
                lambda image, sigma_px=sigma_px: blurred(image, sigma_px),
            ),
            Shift(
                f"jpeg-{strength}",
                f"JPEG of quality {quality}",
                lambda image, quality=quality: compressed(image, quality),
            ),
            Shift(
                f"brightness-{strength}",
                f"light x {1 - share:.2f}",
                lambda image, share=share: lit(image, 1 - share),
            ),
            Shift(
                f"scale-{strength}",
                f"shown at {factor} of its size",
                lambda image, factor=factor: shrunk(image, factor),
                lambda logits, factor=factor: grown(logits, factor),
            ),
        ]
    return {shift.name: shift for shift in sorted(shifts, key=lambda shift: shift.name)}


SHIFTS = _all_shifts()
