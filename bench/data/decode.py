"""Decode the images and labels of a data set; reject unsupported files.

Nothing is converted silently, because a palette, a reduced bit depth or a rotation would only show
as a wrong score. Errors say how to convert the file.
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
        BenchError: another image type, an EXIF rotation, more than 1e8 pixels, or a damaged file.
    """
    with _open(content, path, IMAGE_FORMATS) as image:
        kind = _kind(image)
        if kind != "8-bit RGB":
            raise BenchError(f"{path} is a {kind} image; 8-bit RGB is required. {TO_RGB}.")
        return pixels_of(image, path)


def decode_label(content: bytes, path: Path) -> np.ndarray:
    """Decode instance labels into (H, W) int32; 0 is background.

    Raises:
        BenchError: not one channel of integers in 0..65535, a mask of 0 and 255, an EXIF rotation,
            more than 1e8 pixels, or a damaged file.
    """
    with _open(content, path, LABEL_FORMATS) as image:
        if image.mode not in LABEL_MODES:
            kind = _kind(image)
            raise BenchError(f"{path} is a {kind} image, not one channel of labels. {TO_LABELS}.")
        values = pixels_of(image, path).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_LABEL:
        raise BenchError(f"{path} has labels from {low} to {high}; they must be in 0..{MAX_LABEL}.")
    if high == 255 and np.isin(values, (0, 255)).all():
        raise BenchError(f"{path} is a mask of 0 and 255, not labels. {TO_LABELS}.")
    return values.astype(np.int32)


def _open(content: bytes, path: Path, formats: tuple[str, ...]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns above 0.9e8 pixels; the limit here is MAX_PIXELS.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=formats)
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise BenchError(f"{path} is refused: {error} {_too_large()}") from error
    except Exception as error:  # a decoder may raise anything on a damaged file
        kinds = ", ".join(formats)
        raise BenchError(f"{path} is damaged or not one of {kinds}: {error}.") from error
    if image.width * image.height > MAX_PIXELS:
        raise BenchError(f"{path} has {image.width}x{image.height} pixels. {_too_large()}")
    if frames != 1:
        raise BenchError(f"{path} contains {frames} images; exactly one is required.")
    return image


def _too_large() -> str:
    return f"The limit is {MAX_PIXELS:.0e} pixels. Cut the image into tiles."


def _kind(image: Image.Image) -> str:
    """Return the type of an image; Pillow reports 16-bit RGB and RGB with alpha as "RGB"."""
    names = {"L": "grey", "LA": "grey with alpha", "1": "black and white", "P": "palette"}
    raw = json.dumps([tile[3] for tile in getattr(image, "tile", [])], default=str)
    if image.mode == "RGB" and ";16" in raw:
        return "16-bit RGB"
    if image.mode == "RGB" and image.has_transparency_data:
        return "RGB with transparency"
    return "8-bit RGB" if image.mode == "RGB" else names.get(image.mode) or image.mode


def pixels_of(image: Image.Image, path: Path) -> np.ndarray:
    """Read the pixels of an image without rotation.

    Raises:
        BenchError: the file is damaged, or has an EXIF rotation.
    """
    if image.format == "TIFF":  # Pillow rotates TIFF files while reading, and drops the tag
        _refuse_rotated(image, path)
    try:
        pixels = np.array(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is truncated or damaged: {error}.") from error
    _refuse_rotated(image, path)  # a PNG file can store the orientation after the pixels
    return pixels


def _refuse_rotated(image: Image.Image, path: Path) -> None:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # Pillow may raise anything on damaged EXIF
        raise BenchError(
            f"{path} has unreadable EXIF data ({error}), so its orientation is unknown. Check the "
            "image, and save it without EXIF data."
        ) from error
    if orientation not in (0, 1):
        raise BenchError(
            f"{path} is rotated (EXIF orientation {orientation}), so image and label may not be "
            "aligned. Rotate both with PIL.ImageOps.exif_transpose, and save them."
        )


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
