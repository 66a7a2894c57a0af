"""Average precision of the foreground probability of pixels, within one image.

AP = sum_k (R_k - R_(k-1)) P_k over the distinct probabilities k of the image, from the highest to
the lowest, with the precision P_k and the recall R_k of the pixels that have at least this
probability, as in scikit-learn. It needs no threshold: a model whose AP is high and whose Dice is
low has good features and a wrong operating point. A random order has the share of the foreground.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric, Prediction


def count_average_precision(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Compute the average precision of an image; it is not a sum over pixels.

    Args:
        prediction: probability of the foreground (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
    probability, true = prediction.probability.ravel(), truth.ravel() != 0
    assert probability.shape == true.shape
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of equal values
    hits = np.cumsum(true[order])[last]
    value = 1.0
    if hits[-1]:
        value = float(np.sum(np.diff(hits, prepend=0) * (hits / (last + 1))) / hits[-1])
    return {"pixel_average_precision": value, "pixel_foreground": float(hits[-1])}


def average_precision(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the average precision; 1 without true foreground."""
    return counts["pixel_average_precision"]


METRIC = Metric(
    name="average_precision",
    title="Average precision of foreground probabilities: quality without a threshold",
    count=count_average_precision,
    scores={"ap": average_precision},
    defined={"ap": lambda counts: counts["pixel_foreground"] > 0},
)
