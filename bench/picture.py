"""Draw the scores of the images of one run, for notebooks."""

from __future__ import annotations

import io
from collections import defaultdict

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from bench.board import Score, scores_of_images
from bench.display import named, run_title
from bench.figures.style import BASE
from bench.record import Record

INCHES_WIDE = 6.4
INCHES_A_PATIENT = 0.22
MOST_NAMED = 40  # patients; more names would overlap
DOTS, LINE = "#0072b2", "#333333"


class Picture(Figure):
    """A figure that notebooks display without pyplot, which would never free it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return file.getvalue()


def strip(record: Record, score: Score) -> Picture:
    """Draw the score of each image as a dot, one line per patient, with the mean and its interval.

    The worst patient is at the bottom. Few-shot scores are averaged over draws.

    Args:
        record: the run.
        score: the score to draw, with its summary.
    """
    values = scores_of_images(record, score.metric).mean(axis=0)  # (images,)
    by_patient = defaultdict(list)
    for image, value in zip(record.images, values, strict=True):
        by_patient[record.patients[image]].append(value)
    patients = sorted(by_patient, key=lambda patient: float(np.mean(by_patient[patient])))
    height = 1.2 + INCHES_A_PATIENT * min(len(patients), MOST_NAMED)
    with matplotlib.style.context(["default", BASE]):
        figure = Picture(figsize=(INCHES_WIDE, height), layout="constrained")
        axes = figure.subplots()
        for line, patient in enumerate(patients):
            scores = by_patient[patient]
            axes.plot(scores, [line] * len(scores), "o", color=DOTS, alpha=0.7, ms=5)
        summary, bounds = score.summary, score.summary.interval
        if summary.mean is not None:
            axes.axvline(summary.mean, color=LINE, label="mean")
        if bounds.low is not None and bounds.high is not None:
            axes.axvspan(bounds.low, bounds.high, color=LINE, alpha=0.15, lw=0, label="95 %")
        shown = patients if len(patients) <= MOST_NAMED else []
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylabel("patient")
        axes.set_xlabel(named(score.metric))
        axes.set_title(run_title(record), fontsize=9, loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
