"""Expected calibration error of the probability of the foreground, pixel by pixel.

The pixels of an image fall into 15 bins of equal width by their probability p(foreground); bin k
holds k/15 <= p < (k + 1)/15, the last one also 1. The error is the mean over pixels of how far, in
the bin of each, the mean probability lies from the share of true foreground (Naeini et al.,
"Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; here of one class, not
of the class of largest probability). `ece` is of all pixels, most of them easy background;
`ece_band` of those three pixels deep on either side of the true boundary, where it is hard to tell.

It is binned within each image and averaged over images, as all scores are. That of few pixels is
too large by chance alone, more so in the band: compare it on the same images only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric, Prediction

BINS = 15
BAND_PX = 3


def count_calibration(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Sum the gaps of all bins, in pixels, and count the pixels; of the image and of the band."""
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
    """Mark the pixels that are at most three steps from one of the other kind; (H, W) bool.

    A step goes up, down, left or right; the image frame is no boundary.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    grown = np.asarray(binary_dilation(true, iterations=BAND_PX), bool)
    return grown & ~np.asarray(binary_erosion(true, iterations=BAND_PX, border_value=1), bool)


def _gap(probability: np.ndarray, true: np.ndarray) -> float:
    """Add over bins |sum of probabilities - number of true pixels|, both (n,)."""
    exact = probability.astype(np.float64)
    place = np.minimum((exact * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, exact - true, BINS)).sum())


def ece(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean gap over all pixels."""
    return counts["calibration_gap"] / counts["calibration_pixels"]


def ece_band(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean gap over the pixels near the true boundary; 0 where there is none."""
    return counts["calibration_gap_band"] / np.maximum(counts["calibration_pixels_band"], 1)


def _has_boundary(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    return counts["calibration_pixels_band"] > 0


METRIC = Metric(
    name="calibration",
    title="Calibration error of foreground probabilities: all pixels, and near the boundary",
    count=count_calibration,
    scores={"ece": ece, "ece_band": ece_band},
    defined={"ece_band": _has_boundary},
    lower_is_better=frozenset({"ece", "ece_band"}),
)
