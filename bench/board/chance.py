"""Chance baselines: the scores of predictions that do not depend on the image.

A prediction that labels each pixel foreground with the same probability s has, on an image of F
foreground and B background pixels, the expected counts TP = sF, FP = sB, FN = (1 - s)F and
TN = (1 - s)B; the baseline is the score of these counts. s = 0 is all background, s = 1 is all
foreground, and s = F / (F + B) is random at the prevalence of the image, which no model knows.
F and B follow from the counts of any run on the images. Scores that need geometry have no baseline.

Two scores detect runs at chance level: a macro precision of 0.5, which every s except 0 and 1 has
on average over pixels, and the macro Dice of all background. The foreground Dice of all background
is 0, which no interval contains; its macro Dice is half of the background's Dice, (1 - p) / (2 - p)
at prevalence p, so nearly 0.5 for sparse nuclei.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric
from bench.api.board import Summary
from bench.api.record import Record
from bench.board.scores import StackedCounts

ALL_BACKGROUND = "all background"
BASELINES = (ALL_BACKGROUND, "all foreground", "random at prevalence")
PIXELS = ("tp", "fp", "fn", "tn")
CHANCE_PRECISION_MACRO = 0.5


def true_pixels(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the numbers of true foreground and background pixels of each image, (n,) and (n,).

    Images are sorted by id. None if the record has no pixel counts.
    """
    counts = StackedCounts(record.trials)
    if not all(name in counts for name in PIXELS):
        return None
    columns = [column for _, trial_columns in record.places for column in trial_columns]
    foreground, background = np.empty((2, len(record.images)))
    foreground[columns] = counts["tp"] + counts["fn"]
    background[columns] = counts["fp"] + counts["tn"]
    return foreground, background


def baseline_counts(
    baseline: str, foreground: np.ndarray, background: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the expected counts of one of `BASELINES` on each image, (n,) each."""
    prevalence = foreground / np.maximum(foreground + background, 1)
    shares = (np.zeros_like(prevalence), np.ones_like(prevalence), prevalence)
    share = shares[BASELINES.index(baseline)]
    return {
        "tp": share * foreground,
        "fp": share * background,
        "fn": (1 - share) * foreground,
        "tn": (1 - share) * background,
    }


def baseline_scores(
    metric: Metric, name: str, counts: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return the score of a baseline on each image, (n,); None if it needs other counts."""
    try:
        return metric.scores[name](counts)
    except KeyError:
        return None


def compared_with(summary: Summary, chance: float) -> str:
    """Return "at chance" if the interval contains the chance level, "below chance" if it is below.

    Without an interval (too few patients) the mean is compared. Returns "" above chance level.
    """
    low, high = summary.interval.low, summary.interval.high
    if low is None or high is None:
        low = high = summary.mean
    if low is None or high is None or low > chance:
        return ""
    return "at chance" if high >= chance else "below chance"
