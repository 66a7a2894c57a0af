"""Overlap of the predicted and the true foreground, from the four pixel counts of one image.

Where neither mask holds foreground every score is 1, where only one does it is 0; `defined` tells
apart the images on which that is a convention and no measurement. The macro scores are the mean
over foreground and background, as in the paper's tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric, Prediction

PixelCounts = Mapping[str, np.ndarray]


def count_pixels(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count true and false positives and negatives of one image; the truth (H, W) int32."""
    predicted, true = prediction.mask, truth != 0
    assert predicted.shape == true.shape
    assert predicted.dtype == bool
    tp = np.count_nonzero(predicted & true)
    fp = np.count_nonzero(predicted) - tp
    fn = np.count_nonzero(true) - tp
    return {
        "tp": float(tp),
        "fp": float(fp),
        "fn": float(fn),
        "tn": float(true.size - tp - fp - fn),
    }


def dice(counts: PixelCounts) -> np.ndarray:
    """2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * counts["tp"], 2 * counts["tp"] + counts["fp"] + counts["fn"], empty=1.0)


def iou(counts: PixelCounts) -> np.ndarray:
    """TP / (TP + FP + FN)."""
    return _ratio(counts["tp"], counts["tp"] + counts["fp"] + counts["fn"], empty=1.0)


def precision(counts: PixelCounts) -> np.ndarray:
    """TP / (TP + FP)."""
    nothing_missed = np.where(counts["fn"] > 0, 0.0, 1.0)
    return _ratio(counts["tp"], counts["tp"] + counts["fp"], empty=nothing_missed)


def recall(counts: PixelCounts) -> np.ndarray:
    """TP / (TP + FN)."""
    nothing_invented = np.where(counts["fp"] > 0, 0.0, 1.0)
    return _ratio(counts["tp"], counts["tp"] + counts["fn"], empty=nothing_invented)


def dice_macro(counts: PixelCounts) -> np.ndarray:
    """Mean of the Dice of the foreground and that of the background."""
    return (dice(counts) + dice(_of_background(counts))) / 2


def precision_macro(counts: PixelCounts) -> np.ndarray:
    """Mean of the precision of the foreground and that of the background."""
    return (precision(counts) + precision(_of_background(counts))) / 2


def _of_background(counts: PixelCounts) -> PixelCounts:
    return {"tp": counts["tn"], "fp": counts["fn"], "fn": counts["fp"], "tn": counts["tp"]}


def _ratio(part: np.ndarray, whole: np.ndarray, *, empty: float | np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), empty)


def _either_has_foreground(counts: PixelCounts) -> np.ndarray:
    return counts["tp"] + counts["fp"] + counts["fn"] > 0


def _both_have_foreground(counts: PixelCounts) -> np.ndarray:
    return (counts["tp"] + counts["fp"] > 0) & (counts["tp"] + counts["fn"] > 0)


METRIC = Metric(
    name="dice",
    title="Overlap of foreground pixels: Dice, precision, recall, IoU",
    count=count_pixels,
    scores={
        "dice": dice,
        "dice_macro": dice_macro,
        "precision": precision,
        "precision_macro": precision_macro,
        "recall": recall,
        "iou": iou,
    },
    defined={
        "dice": _either_has_foreground,
        "iou": _either_has_foreground,
        "precision": _both_have_foreground,
        "precision_macro": _both_have_foreground,
        "recall": _both_have_foreground,
    },
)
