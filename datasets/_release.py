"""What the readers of official releases share: finding files, reading them, making labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from bench.errors import BenchError

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def files(raw: Path, pattern: str, *, wanted: str) -> list[Path]:
    """List the files below `raw` whose name matches a regular expression fully, sorted by path.

    Raises:
        BenchError: there are none; says what was `wanted`.
    """
    name = re.compile(pattern)
    found = sorted(path for path in raw.rglob("*") if name.fullmatch(path.name) and path.is_file())
    if not found:
        raise BenchError(f"{raw} does not hold this release: {wanted} was not found in it.")
    return found


def partner(path: Path, other: Path) -> Path:
    """Give `other` where it exists; a BenchError names both where it does not."""
    if not other.is_file():
        raise BenchError(f"{path} has no {other.name} in {other.parent}. Unpack the release again.")
    return other


def picture(path: Path) -> np.ndarray:
    """Read an image of a release as (H, W, 3) uint8 RGB; an alpha that hides nothing is dropped."""
    pixels = _pixels(path)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BenchError(f"{path} is {pixels.dtype} {pixels.shape}, not an 8-bit RGB image.")
    return pixels


def components(path: Path) -> np.ndarray:
    """Read a mask of two values and number its connected pieces, (H, W) int32.

    Pieces that touch at a corner are one nucleus: annotators draw outlines, and a nucleus that is
    one pixel thin on a diagonal would fall apart into specks with four neighbours.
    """
    pixels = _pixels(path)
    if pixels.ndim == 3:
        channels = pixels[..., :3]
        if (channels != channels[..., :1]).any():
            raise BenchError(f"{path} is a colour image, not a mask.")
        pixels = channels[..., 0]
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise BenchError(f"{path} has {len(values)} values, not background 0 and one for nuclei.")
    labels, _ = ndimage.label(pixels != 0, EIGHT_NEIGHBOURS)  # pyright: ignore
    return labels.astype(np.int32)


def same_size(image: np.ndarray, instances: np.ndarray, path: Path) -> None:
    """Raise a BenchError where a label is not as large as its image."""
    if image.shape[:2] != instances.shape:
        raise BenchError(
            f"{path}: the image is {image.shape[1]}x{image.shape[0]}, its label "
            f"{instances.shape[1]}x{instances.shape[0]}. Unpack the release again."
        )


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG", "TIFF", "JPEG")) as image:
            return np.array(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is damaged or not an image: {error}.") from error
