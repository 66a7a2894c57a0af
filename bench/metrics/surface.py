"""Distances between the contours of the predicted and the true foreground.

Contours are defined in `bench.metrics.boundary`. The Euclidean distances of the pixels of both
contours to the other contour are pooled. `nsd` is the share of distances of at most 2 px, the
surface Dice (Nikolov et al., Journal of Medical Internet Research 23:7, 2021, e26151). `hd95` is
their interpolated 95th percentile in px, a robust Hausdorff distance.

If only one mask has a contour, `nsd` is 0 and `hd95` the image diagonal. If neither has one, two
equal masks (both empty or both full) have `nsd` 1 and `hd95` 0, and two different ones the worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot

import numpy as np

from bench.api import Metric, Prediction

from .boundary import contour

TAU_PX = 2


def count_surface(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count the contour pixels of both masks and those near the other contour; compute hd95.

    Args:
        prediction: mask (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
    predicted, true = prediction.mask, truth != 0  # (H, W) bool
    assert predicted.shape == true.shape
    assert predicted.dtype == bool
    contour_predicted, contour_true = contour(predicted), contour(true)
    distances = _distances(contour_predicted, contour_true)
    if distances.size:
        hd95 = float(np.percentile(distances, 95))
    else:
        hd95 = 0.0 if np.array_equal(predicted, true) else hypot(*true.shape)
    return {
        "surface_predicted": float(np.count_nonzero(contour_predicted)),
        "surface_true": float(np.count_nonzero(contour_true)),
        "surface_near": float(np.count_nonzero(distances <= TAU_PX)),
        "hd95_px": hd95,
    }


def _distances(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the distances of the pixels of two contours, (H, W) bool, to the other contour.

    Returns:
        (n,) px; n = 0 if a contour is empty.
    """
    from scipy.ndimage import distance_transform_edt

    if not (predicted.any() and true.any()):
        return np.zeros(0)
    pairs = ((predicted, true), (true, predicted))
    return np.concatenate([np.asarray(distance_transform_edt(~to))[start] for start, to in pairs])


def nsd(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the share of contour pixels near the other contour."""
    pixels = counts["surface_predicted"] + counts["surface_true"]
    same = np.where(counts["hd95_px"] == 0, 1.0, 0.0)
    return np.where(pixels > 0, counts["surface_near"] / np.maximum(pixels, 1), same)


def hd95(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the 95th percentile of the distances, px."""
    return counts["hd95_px"]


METRIC = Metric(
    name="surface",
    title="Distances between contours: surface Dice at 2 px, 95th percentile",
    count=count_surface,
    scores={"nsd": nsd, "hd95": hd95},
    defined={
        "nsd": lambda counts: counts["surface_predicted"] + counts["surface_true"] > 0,
        "hd95": lambda counts: np.minimum(counts["surface_predicted"], counts["surface_true"]) > 0,
    },
    lower_is_better=frozenset({"hd95"}),
)
