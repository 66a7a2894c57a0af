"""Draw outlines of the truth, and true and false pixels of a mask, over an image.

True positive, false positive and false negative pixels have colour-blind safe colours (Okabe and
Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.patches import Patch

COLOURS = {
    "true positive": (0, 114, 178),
    "false positive": (240, 228, 66),
    "false negative": (213, 94, 0),
}
CONTOUR = (0, 0, 0)
OPACITY = 0.55


def outlined(pixels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return a copy of an image with the outline of each true nucleus.

    Args:
        pixels: (H, W, 3) uint8.
        instances: (H, W) int32, 0 is background.
    """
    drawn = pixels.copy()
    drawn[outline(instances)] = CONTOUR
    return drawn


def outline(instances: np.ndarray) -> np.ndarray:
    """Return the pixels of nuclei with a 4-neighbour of another label, (H, W) bool."""
    padded = np.pad(instances, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (inner != 0) & np.any([labels != inner for labels in neighbours], axis=0)


def overlaid(pixels: np.ndarray, instances: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image in grey with true positives, false positives and negatives in colour.

    Args:
        pixels: (H, W, 3) uint8.
        instances: (H, W) int32, the truth, 0 is background.
        mask: (H, W) bool, the prediction.
    """
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)  # (H, W, 3)
    truth = instances != 0
    areas = {
        "true positive": mask & truth,
        "false positive": mask & ~truth,
        "false negative": ~mask & truth,
    }
    for name, area in areas.items():
        grey[area] = (1 - OPACITY) * grey[area] + OPACITY * np.array(COLOURS[name])
    return grey.round().astype(np.uint8)


def legend_handles() -> list[Patch]:
    """Return the legend entries of the colours of `overlaid`."""
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor="black", linewidth=0.5, label=name)
        for name, (r, g, b) in COLOURS.items()
    ]
