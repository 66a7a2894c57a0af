"""Choose the anchor: the pixel whose feature all others are compared with."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bench.errors import BenchError

MARGIN = 0.25  # of a side: nuclei closer to the edge are not central


def on_nucleus(instances: np.ndarray) -> tuple[int, int]:
    """Return the innermost pixel (y, x) of the largest central nucleus.

    If no nucleus is central, the largest of all is used.

    Args:
        instances: (H, W) integers, 0 is background.

    Raises:
        BenchError: there is no nucleus.
    """
    numbers, sizes = np.unique(instances[instances != 0], return_counts=True)
    if not len(numbers):
        raise BenchError("the image has no nucleus for the anchor: set it by --anchor X,Y.")
    centres = np.array(ndimage.center_of_mass(instances != 0, instances, numbers))  # (n, 2)
    sides = np.array(instances.shape)
    central = ((centres >= MARGIN * sides) & (centres <= (1 - MARGIN) * sides)).all(axis=1)
    candidates = central if central.any() else np.ones_like(central)
    largest = numbers[candidates][sizes[candidates].argmax()]
    padded = np.pad(instances == largest, 1)
    depth = np.asarray(ndimage.distance_transform_edt(padded))
    y, x = np.unravel_index(depth.argmax(), padded.shape)
    return int(y) - 1, int(x) - 1


def parse(text: str, size: tuple[int, ...]) -> tuple[int, int]:
    """Parse "X,Y", in pixels of an image of `size` (H, W), as (y, x).

    Raises:
        BenchError: `text` is not two integers, or outside the image.
    """
    height, width = size
    try:
        x, y = (int(number) for number in text.split(","))
    except ValueError as error:
        raise BenchError(f"--anchor {text!r} is not X,Y in pixels, such as 120,64.") from error
    if not (0 <= x < width and 0 <= y < height):
        raise BenchError(
            f"--anchor {text} is outside the image of {width} x {height} px: use X from 0 to "
            f"{width - 1} and Y from 0 to {height - 1}."
        )
    return y, x
