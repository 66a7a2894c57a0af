"""Boundary F1: agreement of the contours of the predicted and the true foreground.

The contour of a mask is the mask minus its erosion by the four neighbours; the image frame is not
part of it. Boundary precision is the share of predicted contour pixels within a Euclidean distance
tau of a true contour pixel, boundary recall the reverse, and the score is their harmonic mean
(Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section
2.2). tau is 2 px for `bf1`, and 0.75 % of the image diagonal but at least 1 px for `bf1_rel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt

import numpy as np

from bench.api import Metric, Prediction

SQUARED_TAU = 4  # px^2


def squared_relative_tau(height: int, width: int) -> int:
    """Return max(1, 0.0075 * diagonal) squared and rounded down, in px^2.

    Squared distances between pixels are integers, so rounding down changes no comparison, and a
    distance equal to tau, which occurs in images of 400x400, does not depend on rounding errors.
    """
    return max(1, 9 * (height**2 + width**2) // 160_000)


def contour(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask, (H, W) bool, with a 4-neighbour outside it: (H, W) bool."""
    framed = np.pad(mask, 1, constant_values=True)
    rows = framed[:-2, 1:-1] & framed[2:, 1:-1]
    columns = framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~(rows & columns)


def count_boundary(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count the contour pixels of both masks, and those near the other contour.

    Foreground pixels are counted too, to tell a full mask from an empty one: neither has a contour.

    Args:
        prediction: mask (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
    predicted, true = prediction.mask, truth != 0  # (H, W) bool
    assert predicted.shape == true.shape
    assert predicted.dtype == bool
    contour_predicted, contour_true = contour(predicted), contour(true)
    relative = squared_relative_tau(*true.shape)
    counts = {
        "foreground_predicted": np.count_nonzero(predicted),
        "foreground_true": np.count_nonzero(true),
        "contour_predicted": np.count_nonzero(contour_predicted),
        "contour_true": np.count_nonzero(contour_true),
        "near_predicted": _count_near(contour_predicted, contour_true, SQUARED_TAU),
        "near_true": _count_near(contour_true, contour_predicted, SQUARED_TAU),
        "near_predicted_rel": _count_near(contour_predicted, contour_true, relative),
        "near_true_rel": _count_near(contour_true, contour_predicted, relative),
    }
    return {name: float(count) for name, count in counts.items()}


def _count_near(points: np.ndarray, others: np.ndarray, squared_tau: int) -> int:
    """Count the pixels of `points` within tau of a pixel of `others`, both (H, W) bool.

    A disk is a stack of horizontal runs, and two prefix sums show whether a run contains a pixel.
    This is six times faster than a distance transform on a mask of 1000x1000.
    """
    reach = isqrt(squared_tau)
    framed = np.pad(others, ((reach, reach), (reach + 1, reach)))
    prefix = framed.cumsum(axis=1, dtype=np.int32)
    rows, columns = np.nonzero(points)
    centre = (rows + reach) * prefix.shape[1] + columns + reach  # the pixel left of the point
    near = np.zeros(len(rows), dtype=bool)
    for dy in range(-reach, reach + 1):
        half = isqrt(squared_tau - dy * dy)
        middle = centre + dy * prefix.shape[1]
        near |= prefix.take(middle + half + 1) != prefix.take(middle - half)
    return int(np.count_nonzero(near))


def _boundary_f1(suffix: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    def score(counts: Mapping[str, np.ndarray]) -> np.ndarray:
        predicted, true = counts["contour_predicted"], counts["contour_true"]
        precision = counts[f"near_predicted{suffix}"] / np.maximum(predicted, 1)
        recall = counts[f"near_true{suffix}"] / np.maximum(true, 1)
        total = precision + recall
        harmonic = 2 * precision * recall / np.where(total > 0, total, 1)
        same = counts["foreground_predicted"] == counts["foreground_true"]
        return np.where(predicted + true > 0, harmonic, np.where(same, 1.0, 0.0))

    return score


def _has_contour(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    return counts["contour_predicted"] + counts["contour_true"] > 0


METRIC = Metric(
    name="boundary",
    title="Boundary F1 at 2 px, and at 0.75 % of the image diagonal",
    count=count_boundary,
    scores={"bf1": _boundary_f1(""), "bf1_rel": _boundary_f1("_rel")},
    defined={"bf1": _has_contour, "bf1_rel": _has_contour},
)
