"""Overlap of the predicted and the true foreground, from the four pixel counts of one image.

Every score is 1 if both masks are empty and 0 if exactly one is; `defined` marks the images on
which a score is more than this convention. Macro scores are means over foreground and background,
as in the paper's tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric, Prediction

PixelCounts = Mapping[str, np.ndarray]


def count_pixels(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count true and false positives and negatives of one image.

    Args:
        prediction: mask (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
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
    """Return 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * counts["tp"], 2 * counts["tp"] + counts["fp"] + counts["fn"], empty=1.0)


def iou(counts: PixelCounts) -> np.ndarray:
    """Return TP / (TP + FP + FN)."""
    return _ratio(counts["tp"], counts["tp"] + counts["fp"] + counts["fn"], empty=1.0)


def precision(counts: PixelCounts) -> np.ndarray:
    """Return TP / (TP + FP)."""
    no_misses = np.where(counts["fn"] > 0, 0.0, 1.0)
    return _ratio(counts["tp"], counts["tp"] + counts["fp"], empty=no_misses)


def recall(counts: PixelCounts) -> np.ndarray:
    """Return TP / (TP + FN)."""
    no_false_alarms = np.where(counts["fp"] > 0, 0.0, 1.0)
    return _ratio(counts["tp"], counts["tp"] + counts["fn"], empty=no_false_alarms)


def dice_macro(counts: PixelCounts) -> np.ndarray:
    """Return the mean Dice of foreground and background."""
    return (dice(counts) + dice(_swap_classes(counts))) / 2


def precision_macro(counts: PixelCounts) -> np.ndarray:
    """Return the mean precision of foreground and background."""
    return (precision(counts) + precision(_swap_classes(counts))) / 2


def _swap_classes(counts: PixelCounts) -> PixelCounts:
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
