"""What answers that look at no pixel score: the floor of a board, and who does not rise above it.

An answer that calls each pixel foreground with the same probability s has, on an image of F
foreground and B background pixels, the expected counts TP = sF, FP = sB, FN = (1 - s)F and
TN = (1 - s)B, whose scores are taken. s = 0 is all background, s = 1 all foreground, and
s = F / (F + B) random at the prevalence of the image, which no model is told. F and B follow from
the counts of any run on the images. Scores that need geometry cannot be had from counts.

Two scores tell chance: a macro precision of 0.5, which every s but 0 and 1 gives on average over
pixels, and the macro Dice of all background. That one, not the foreground's: the Dice of the
foreground of all background is 0, which no interval holds, while its macro Dice is half of the
background's Dice, (1 - p) / (2 - p) at prevalence p, and so nearly 0.5 where nuclei are sparse.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Metric
from bench.record import Record, StackedCounts
from bench.stats import Summary

ALL_BACKGROUND = "all background"
ANSWERS = (ALL_BACKGROUND, "all foreground", "random at prevalence")
PIXELS = ("tp", "fp", "fn", "tn")
CHANCE_PRECISION_MACRO = 0.5


def true_pixels(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Count the true foreground and background pixels of each image of a run, (n,) both.

    Images are sorted by id. None where the run did not count pixels.
    """
    counts = StackedCounts(record.trials)
    if not all(name in counts for name in PIXELS):
        return None
    columns = [column for _, own in record.places for column in own]
    foreground, background = np.empty((2, len(record.images)))
    foreground[columns] = counts["tp"] + counts["fn"]
    background[columns] = counts["fp"] + counts["tn"]
    return foreground, background


def answer_counts(
    answer: str, foreground: np.ndarray, background: np.ndarray
) -> dict[str, np.ndarray]:
    """Give the expected counts of an answer of `ANSWERS` on each image, (n,) each."""
    prevalence = foreground / np.maximum(foreground + background, 1)
    shares = (np.zeros_like(prevalence), np.ones_like(prevalence), prevalence)
    share = shares[ANSWERS.index(answer)]
    return {
        "tp": share * foreground,
        "fp": share * background,
        "fn": (1 - share) * foreground,
        "tn": (1 - share) * background,
    }


def answer_scores(metric: Metric, name: str, counts: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Score an answer on each image, (n,); None where the score needs more than its counts."""
    try:
        return metric.scores[name](counts)
    except KeyError:
        return None


def compared_with(summary: Summary, chance: float) -> str:
    """Say "at chance" where an interval holds the value, "below chance" where it lies below it.

    Where there are too few patients for an interval, the mean takes its place.
    """
    low, high = summary.interval.low, summary.interval.high
    if low is None or high is None:
        low = high = summary.mean
    if low is None or high is None or low > chance:
        return ""
    return "at chance" if high >= chance else "below chance"
