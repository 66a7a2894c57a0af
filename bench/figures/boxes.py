"""Where predictions differ most from the truth or from each other: boxes, found deterministically.

Letters: M masks of an image, H and W its sides in pixels, S side of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

SHARE = 0.22  # of the image's shorter side: the side of a box


class Box(NamedTuple):
    """A square: its upper left pixel and its side."""

    top: int
    left: int
    side: int

    @property
    def where(self) -> tuple[slice, slice]:
        """The rows and columns of its pixels."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


def disagreement(truth: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Tell how much is at odds at each pixel: (H, W) float64 in [0, 2].

    It is the share of the masks that are wrong there, plus the share of their pairs that differ.

    Args:
        truth: (H, W) bool.
        masks: M, each (H, W) bool.
    """
    wrong = np.mean([mask != truth for mask in masks], axis=0)
    pairs = [one != other for one, other in combinations(masks, 2)]
    return wrong + (np.mean(pairs, axis=0) if pairs else 0)


def find(odds: np.ndarray, count: int) -> list[Box]:
    """Find the squares that hold most of what is at odds; they do not overlap.

    Where two hold as much, the upper left one comes first; a square that holds nothing is none.

    Args:
        odds: (H, W), 0 or more.
        count: at most so many.
    """
    side = max(1, round(SHARE * min(odds.shape)))
    sums = _window_sums(odds, side)  # (H - S + 1, W - S + 1)
    boxes: list[Box] = []
    while len(boxes) < count and sums.max() > 1e-9:
        top, left = (int(each) for each in np.unravel_index(sums.argmax(), sums.shape))
        boxes.append(Box(top, left, side))
        near = (
            slice(max(0, top - side + 1), top + side),
            slice(max(0, left - side + 1), left + side),
        )
        sums[near] = 0
    return boxes


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Add up every square of a side, from sums over rectangles that start at the origin."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
