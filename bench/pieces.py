"""The nuclei of a mask: its connected pieces, with a number each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bench.decode import LABEL_FORMATS, MAX_LABEL, MAX_PIXELS, pixels_of
from bench.errors import BenchError

MASK_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")


def pieces(foreground: np.ndarray) -> np.ndarray:
    """Number the connected pieces of what is not 0, (H, W) int32; corners connect."""
    from scipy import ndimage  # slow to import, and seldom needed

    return ndimage.label(foreground, np.ones((3, 3)))[0]  # pyright: ignore


def numbered(content: bytes, path: Path) -> np.ndarray:
    """Number the connected pieces of the mask in a file: (H, W) uint16, 0 is background.

    Raises:
        BenchError: it is no mask of background 0 and one other value, is stored turned, or has too
            many pieces.
    """
    try:
        with Image.open(io.BytesIO(content), formats=LABEL_FORMATS) as file:
            wrong = _not_a_mask(file)
            values = np.zeros(1) if wrong else pixels_of(file, path)
    except BenchError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is damaged or not one of {LABEL_FORMATS}: {error}.") from error
    others = np.unique(values[values != 0])
    if wrong or len(others) > 1:
        found = wrong or f"has {len(others)} values beside 0"
        raise BenchError(
            f"{path} {found}: --binary takes masks of one channel, 0 and one other value. Leave it "
            "out where labels are numbers of nuclei."
        )
    labels = pieces(values)
    if labels.max() > MAX_LABEL:
        raise BenchError(f"{path} has {labels.max()} pieces; at most {MAX_LABEL} can be stored.")
    return labels.astype(np.uint16)


def _not_a_mask(file: Image.Image) -> str:
    if getattr(file, "n_frames", 1) != 1:
        return "holds several pictures"
    if file.width * file.height > MAX_PIXELS:
        return f"has more than {MAX_PIXELS:.0e} pixels"
    return "" if file.mode in MASK_MODES else f"is a {file.mode} image"
