"""Detect labels that do not belong to their image: nuclei are darker than their surroundings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

WINDOW_PX = 64  # of the subtracted local mean, so that dark regions of tissue do not count
LEAST_CONTRAST = 0.25  # standard deviations; 258 real images have 0.5 or more, swapped ones ~0
FEWEST_NUCLEI = 3
SAMPLED_PX = 256  # larger images are subsampled to sides of about this length
MAX_SHOWN = 3  # images in one message

FLIPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "flipped upside down": lambda mask: mask[::-1],
    "flipped left to right": lambda mask: mask[:, ::-1],
    "rotated by 180 degrees": lambda mask: mask[::-1, ::-1],
    "transposed": lambda mask: mask.T,
    "rotated by 90 degrees": lambda mask: mask.T[::-1],
    "rotated by 270 degrees": lambda mask: mask.T[:, ::-1],
    "transposed and rotated by 180 degrees": lambda mask: mask.T[::-1, ::-1],
}


@dataclass(frozen=True)
class Alignment:
    """How much darker the labelled pixels of an image are than the others.

    Attributes:
        contrast: local difference in brightness, in standard deviations.
        flip: name of the flip of the label under which they would be darkest.
        flipped: their contrast under this flip.
    """

    contrast: float
    flip: str
    flipped: float

    @property
    def is_suspicious(self) -> bool:
        """Whether labelled pixels are not darker, or darker in a flipped label."""
        return self.contrast < max(LEAST_CONTRAST, self.flipped)


def align(image: np.ndarray, mask: np.ndarray) -> Alignment | None:
    """Compare the labelled pixels of an image with the others, also for flipped labels.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, the labelled pixels.

    Returns:
        None if all or no pixels are labelled, or the image has one colour.
    """
    from scipy import ndimage  # slow to import

    step = max(1, min(mask.shape) // SAMPLED_PX)
    grey = image[::step, ::step].mean(axis=2, dtype=np.float32)  # (h, w)
    local = grey - ndimage.uniform_filter(grey, WINDOW_PX // step)  # (h, w)
    labelled = mask[::step, ::step]
    n, deviation = np.count_nonzero(labelled), float(local.std())
    if not 0 < n < labelled.size or deviation < 1e-3:
        return None
    total = float(local.sum())

    def contrast(labelled: np.ndarray) -> float:
        inside = float(local[labelled].sum())
        return ((total - inside) / (labelled.size - n) - inside / n) / deviation

    flipped = {
        name: contrast(flip(labelled))
        for name, flip in FLIPS.items()
        if flip(labelled).shape == labelled.shape
    }
    best = max(flipped, key=lambda name: flipped[name])
    return Alignment(contrast(labelled), best, flipped[best])


def describe(alignments: Mapping[str, Alignment]) -> list[str]:
    """Return a warning if labels, by id, may not belong to their images; else an empty list."""
    wrong = {name: found for name, found in alignments.items() if found.is_suspicious}
    if not wrong:
        return []
    names = ", ".join([*wrong][:MAX_SHOWN])
    more = ", ..." if len(wrong) > MAX_SHOWN else ""
    flips = Counter(a.flip for a in wrong.values() if a.flipped > max(LEAST_CONTRAST, a.contrast))
    flip, count = flips.most_common(1)[0] if flips else ("", 0)
    hint = f"; in {count} of them they would be darker if the label were {flip}" if count else ""
    return [
        f"in {len(wrong)} of {len(alignments)} images ({names}{more}) the labelled pixels are not "
        f"clearly darker than the rest{hint}. Check that each label belongs to its image and has "
        "the same orientation and scale."
    ]
