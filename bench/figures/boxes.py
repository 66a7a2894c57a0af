"""Find the squares in which predictions differ most from the truth or from each other.

Symbols: M masks of an image, H and W its sides in pixels, S side of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

SHARE = 0.22  # side of a box as a share of the image's shorter side


class Box(NamedTuple):
    """A square by its upper left pixel and its side, in pixels."""

    top: int
    left: int
    side: int

    @property
    def where(self) -> tuple[slice, slice]:
        """The slices of its rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


def disagreement(truth: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the disagreement of each pixel, (H, W) float64 in [0, 2].

    It is the share of masks that are wrong, plus the share of pairs of masks that differ.

    Args:
        truth: (H, W) bool.
        masks: M masks, (H, W) bool.
    """
    wrong = np.mean([mask != truth for mask in masks], axis=0)
    pairs = [one != other for one, other in combinations(masks, 2)]
    return wrong + (np.mean(pairs, axis=0) if pairs else 0)


def find(values: np.ndarray, count: int) -> list[Box]:
    """Return up to `count` disjoint squares of largest sum, in descending order.

    Of equal sums, the one closest to the top left comes first. Squares of sum 0 are left out.

    Args:
        values: (H, W), not negative, such as `disagreement`.
        count: largest number of boxes.
    """
    side = max(1, round(SHARE * min(values.shape)))
    sums = _window_sums(values, side)  # (H - S + 1, W - S + 1)
    boxes: list[Box] = []
    while len(boxes) < count and sums.max() > 1e-9:
        top, left = (int(index) for index in np.unravel_index(sums.argmax(), sums.shape))
        boxes.append(Box(top, left, side))
        overlapping = (
            slice(max(0, top - side + 1), top + side),
            slice(max(0, left - side + 1), left + side),
        )
        sums[overlapping] = 0
    return boxes


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Return the sum of every square of a side, from a summed-area table."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
