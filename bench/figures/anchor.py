"""The place that all others are compared with: on a nucleus, or where the user says."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bench.errors import BenchError

MIDDLE = 0.25  # of a side: nuclei nearer to the edge than this are not in the middle


def on_nucleus(instances: np.ndarray) -> tuple[int, int]:
    """Choose the pixel (y, x) that is deepest in the largest nucleus of the middle of the image.

    Where the middle has none, it is the largest of all.

    Args:
        instances: (H, W), 0 is background.

    Raises:
        BenchError: there is no nucleus.
    """
    numbers, sizes = np.unique(instances[instances != 0], return_counts=True)
    if not len(numbers):
        raise BenchError("the image has no nucleus to choose an anchor on: give --anchor X,Y.")
    centres = np.array(ndimage.center_of_mass(instances != 0, instances, numbers))  # (n, 2)
    sides = np.array(instances.shape)
    central = ((centres >= MIDDLE * sides) & (centres <= (1 - MIDDLE) * sides)).all(axis=1)
    kept = central if central.any() else np.ones_like(central)
    largest = numbers[kept][sizes[kept].argmax()]
    framed = np.pad(instances == largest, 1)
    depth = np.asarray(ndimage.distance_transform_edt(framed))
    y, x = np.unravel_index(depth.argmax(), framed.shape)
    return int(y) - 1, int(x) - 1


def parse(text: str, size: tuple[int, ...]) -> tuple[int, int]:
    """Read X,Y in pixels of an image of (H, W): the place (y, x).

    Raises:
        BenchError: it is not two numbers, or not in the image.
    """
    height, width = size
    try:
        x, y = (int(each) for each in text.split(","))
    except ValueError as error:
        raise BenchError(f"--anchor {text!r} is not X,Y in pixels, such as 120,64.") from error
    if not (0 <= x < width and 0 <= y < height):
        raise BenchError(
            f"--anchor {text} is not in the image of {width} x {height} px: X is from 0 to "
            f"{width - 1}, Y from 0 to {height - 1}."
        )
    return y, x
