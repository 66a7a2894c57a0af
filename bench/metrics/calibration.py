"""Expected calibration error of the foreground probability of pixels.

The pixels of an image are binned by p(foreground) into 15 bins of equal width: bin k contains
k/15 <= p < (k + 1)/15, and the last bin also p = 1. The error is the mean over pixels of the
absolute difference between the mean probability and the share of true foreground in the pixel's bin
(Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; here
for the foreground class, not for the class of largest probability). `ece` uses all pixels, most of
which are easy background; `ece_band` uses the pixels within three steps of the true boundary.

Pixels are binned within one image and errors are averaged over images, as for all scores. The error
of few pixels is biased upwards, more so in the band: compare it on the same images only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric, Prediction

BINS = 15
BAND_PX = 3


def count_calibration(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Sum the gaps of all bins, in pixels, and count pixels, for the image and for the band.

    Args:
        prediction: probability of the foreground (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
    probability, true = prediction.probability, truth != 0  # (H, W)
    assert probability.shape == true.shape
    near = band(true)
    return {
        "calibration_pixels": float(true.size),
        "calibration_gap": _gap(probability.ravel(), true.ravel()),
        "calibration_pixels_band": float(np.count_nonzero(near)),
        "calibration_gap_band": _gap(probability[near], true[near]),
    }


def band(true: np.ndarray) -> np.ndarray:
    """Return the pixels at most three steps from a pixel of the other class, (H, W) bool.

    A step goes up, down, left or right; the image frame is not a boundary.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    grown = np.asarray(binary_dilation(true, iterations=BAND_PX), bool)
    return grown & ~np.asarray(binary_erosion(true, iterations=BAND_PX, border_value=1), bool)


def _gap(probability: np.ndarray, true: np.ndarray) -> float:
    """Sum |sum of probabilities - number of true pixels| over bins; both arguments (n,)."""
    exact = probability.astype(np.float64)
    bins = np.minimum((exact * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, exact - true, BINS)).sum())


def ece(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean gap over all pixels."""
    return counts["calibration_gap"] / counts["calibration_pixels"]


def ece_band(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean gap over the pixels near the true boundary; 0 without a boundary."""
    return counts["calibration_gap_band"] / np.maximum(counts["calibration_pixels_band"], 1)


METRIC = Metric(
    name="calibration",
    title="Calibration error of foreground probabilities: all pixels, and near the boundary",
    count=count_calibration,
    scores={"ece": ece, "ece_band": ece_band},
    defined={"ece_band": lambda counts: counts["calibration_pixels_band"] > 0},
    lower_is_better=frozenset({"ece", "ece_band"}),
)
