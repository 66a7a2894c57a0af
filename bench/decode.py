"""Decode the images and labels of a data set, and refuse what is not of the format.

Nothing is converted in silence: a palette, a lost bit depth or a turned picture would be a fault
that only shows in a score. What is refused is named, with the way to convert it.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from bench.errors import BenchError

MAX_PIXELS = 10**8
MAX_LABEL = 65535

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF")
LABEL_FORMATS = ("PNG", "TIFF")
LABEL_MODES = ("L", "I", "I;16", "I;16B", "I;16L")
EXIF_ORIENTATION = 0x0112
TO_RGB = (
    "Convert it once, for example with Pillow: Image.open(FILE).convert('RGB').save('FILE.png')"
)
TO_LABELS = "Number the nuclei, for example with scipy.ndimage.label(mask, numpy.ones((3, 3)))"


def decode_image(content: bytes, path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image into (H, W, 3) uint8.

    Raises:
        BenchError: another kind of image, one that is stored turned, more than 1e8 pixels, or a
            damaged file; names `path`.
    """
    with _opened(content, path, IMAGE_FORMATS) as image:
        kind = _kind(image)
        if kind != "8-bit RGB":
            raise BenchError(f"{path} is a {kind} image; 8-bit RGB is needed. {TO_RGB}.")
        return pixels_of(image, path)


def decode_label(content: bytes, path: Path) -> np.ndarray:
    """Decode instance labels into (H, W) int32; 0 is background.

    Raises:
        BenchError: not one channel of integers in 0..65535, a mask of 0 and 255, stored turned,
            more than 1e8 pixels, or a damaged file; names `path`.
    """
    with _opened(content, path, LABEL_FORMATS) as image:
        if image.mode not in LABEL_MODES:
            kind = _kind(image)
            raise BenchError(f"{path} is a {kind} image, not one channel of labels. {TO_LABELS}.")
        values = pixels_of(image, path).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_LABEL:
        raise BenchError(
            f"{path} has labels from {low} to {high}; they must lie in 0..{MAX_LABEL}."
        )
    if high == 255 and np.isin(values, (0, 255)).all():
        raise BenchError(f"{path} is a mask of 0 and 255, not labels. {TO_LABELS}.")
    return values.astype(np.int32)


def _opened(content: bytes, path: Path, formats: tuple[str, ...]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 0.9e8 pixels on; the limit here is MAX_PIXELS.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=formats)
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise BenchError(f"{path} is refused: {error} {_too_large()}") from error
    except Exception as error:  # a decoder may raise anything on a damaged file
        kinds = ", ".join(formats)
        raise BenchError(f"{path} is damaged or not one of {kinds}: {error}.") from error
    if image.width * image.height > MAX_PIXELS:
        raise BenchError(f"{path} says it has {image.width}x{image.height} pixels. {_too_large()}")
    if frames != 1:
        raise BenchError(f"{path} holds {frames} pictures; one is needed.")
    return image


def _too_large() -> str:
    return f"At most {MAX_PIXELS:.0e} are read; cut it into tiles."


def _kind(image: Image.Image) -> str:
    """Describe an image as a person would; Pillow opens 16-bit RGB and RGB with alpha as "RGB"."""
    names = {"L": "grey", "LA": "grey with alpha", "1": "black and white", "P": "palette"}
    raw = json.dumps([tile[3] for tile in getattr(image, "tile", [])], default=str)
    if image.mode == "RGB" and ";16" in raw:
        return "16-bit RGB"
    if image.mode == "RGB" and image.has_transparency_data:
        return "RGB with transparency"
    return "8-bit RGB" if image.mode == "RGB" else names.get(image.mode) or image.mode


def pixels_of(image: Image.Image, path: Path) -> np.ndarray:
    """Read the pixels of an image as they are stored.

    Raises:
        BenchError: the file is damaged, or says that they are to be turned; names `path`.
    """
    if image.format == "TIFF":  # Pillow turns its pixels as it reads them, and drops the tag
        _refuse_turned(image, path)
    try:
        pixels = np.array(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is truncated or damaged: {error}.") from error
    _refuse_turned(image, path)  # a PNG may hold the orientation behind its pixels
    return pixels


def _refuse_turned(image: Image.Image, path: Path) -> None:
    try:
        turn = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # Pillow may raise anything on damaged EXIF
        raise BenchError(
            f"{path} holds EXIF that cannot be read ({error}), so nobody can tell whether it is "
            "stored turned. Look at it, and save it without EXIF."
        ) from error
    if turn not in (0, 1):
        raise BenchError(
            f"{path} is stored turned (EXIF orientation {turn}), so image and label may not lie "
            "over each other. Turn both once, with PIL.ImageOps.exif_transpose, and save them."
        )
