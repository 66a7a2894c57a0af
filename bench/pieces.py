"""Label the connected components of a binary mask."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bench.decode import LABEL_FORMATS, MAX_LABEL, MAX_PIXELS, pixels_of
from bench.errors import BenchError

MASK_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")


def pieces(foreground: np.ndarray) -> np.ndarray:
    """Label the 8-connected components of the nonzero pixels: (H, W) int32, 0 is background."""
    from scipy import ndimage  # slow to import

    return ndimage.label(foreground, np.ones((3, 3)))[0]  # pyright: ignore


def numbered(content: bytes, path: Path) -> np.ndarray:
    """Label the connected components of a mask file: (H, W) uint16, 0 is background.

    Raises:
        BenchError: the file is not a mask of 0 and one other value, has an EXIF rotation, or has
            too many components.
    """
    try:
        with Image.open(io.BytesIO(content), formats=LABEL_FORMATS) as file:
            problem = _mask_problem(file)
            values = np.zeros(1) if problem else pixels_of(file, path)
    except BenchError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is damaged or not one of {LABEL_FORMATS}: {error}.") from error
    others = np.unique(values[values != 0])
    if len(others) > 1:
        problem = f"has {len(others)} values other than 0"
    if problem:
        raise BenchError(
            f"{path} {problem}: --binary needs masks with one channel, 0 and one other value. Omit "
            "it if the labels are instance numbers."
        )
    labels = pieces(values)
    if labels.max() > MAX_LABEL:
        raise BenchError(f"{path} has {labels.max()} components; the maximum is {MAX_LABEL}.")
    return labels.astype(np.uint16)


def _mask_problem(file: Image.Image) -> str:
    if getattr(file, "n_frames", 1) != 1:
        return "contains several images"
    if file.width * file.height > MAX_PIXELS:
        return f"has more than {MAX_PIXELS:.0e} pixels"
    return "" if file.mode in MASK_MODES else f"is a {file.mode} image"
