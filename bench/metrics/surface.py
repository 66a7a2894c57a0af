"""Distances between the contours of the predicted and the true foreground, pooled.

A contour is that of `bench.metrics.boundary`. For each pixel of either contour the Euclidean
distance to the other one is taken, and the distances of both are thrown together. `nsd` is the
share of at most 2 px, the surface Dice (Nikolov et al., Journal of Medical Internet Research 23:7,
2021, e26151); `hd95` their 95th percentile in px, interpolated, a robust Hausdorff distance.

Where only one mask has a contour nothing is near: `nsd` is 0, `hd95` the diagonal of the image.
Where none has, both empty or both full are perfect, and anything else is as far as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot

import numpy as np

from bench.api import Metric, Prediction

from .boundary import contour

TAU_PX = 2


def count_surface(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count the contour pixels of both masks and those near the other contour; measure hd95."""
    predicted, true = prediction.mask, truth != 0  # (H, W) bool
    assert predicted.shape == true.shape
    assert predicted.dtype == bool
    ours, theirs = contour(predicted), contour(true)
    distances = _distances(ours, theirs)
    if distances.size:
        hd95 = float(np.percentile(distances, 95))
    else:
        hd95 = 0.0 if np.array_equal(predicted, true) else hypot(*true.shape)
    return {
        "surface_predicted": float(np.count_nonzero(ours)),
        "surface_true": float(np.count_nonzero(theirs)),
        "surface_near": float(np.count_nonzero(distances <= TAU_PX)),
        "hd95_px": hd95,
    }


def _distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Measure from each contour, (H, W) bool, to the other: (n,) px, none if one has no pixel."""
    from scipy.ndimage import distance_transform_edt

    if not (ours.any() and theirs.any()):
        return np.zeros(0)
    pairs = ((ours, theirs), (theirs, ours))
    return np.concatenate([np.asarray(distance_transform_edt(~to))[own] for own, to in pairs])


def nsd(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Contour pixels near the other contour, over all."""
    pixels = counts["surface_predicted"] + counts["surface_true"]
    same = np.where(counts["hd95_px"] == 0, 1.0, 0.0)
    return np.where(pixels > 0, counts["surface_near"] / np.maximum(pixels, 1), same)


def hd95(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The 95th percentile of the distances, px."""
    return counts["hd95_px"]


def _either_has_contour(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    return counts["surface_predicted"] + counts["surface_true"] > 0


def _both_have_contour(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.minimum(counts["surface_predicted"], counts["surface_true"]) > 0


METRIC = Metric(
    name="surface",
    title="Distances between contours: surface Dice at 2 px, 95th percentile",
    count=count_surface,
    scores={"nsd": nsd, "hd95": hd95},
    defined={"nsd": _either_has_contour, "hd95": _both_have_contour},
    lower_is_better=frozenset({"hd95"}),
)
