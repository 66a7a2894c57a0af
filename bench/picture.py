"""Draw the images of one run, for notebooks."""

from __future__ import annotations

import io
from collections import defaultdict

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from bench.board import Score, scores_of_images
from bench.curve_picture import LOOK
from bench.display import named, run_title
from bench.record import Record

INCHES_WIDE = 6.4
INCHES_A_PATIENT = 0.22
MOST_NAMED = 40  # patients; more names could not be read
DOTS, LINE = "#0072b2", "#333333"


class Picture(Figure):
    """A figure that shows itself in a notebook, without pyplot, which would keep it for ever."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return file.getvalue()


def strip(record: Record, score: Score) -> Picture:
    """Draw a dot an image in a line a patient, worst patient first; the mean, and its interval.

    Few-shot scores are averaged over draws.
    """
    values = scores_of_images(record, score.metric).mean(axis=0)  # (images,)
    own = defaultdict(list)
    for image, value in zip(record.images, values, strict=True):
        own[record.patients[image]].append(value)
    patients = sorted(own, key=lambda patient: float(np.mean(own[patient])))
    height = 1.2 + INCHES_A_PATIENT * min(len(patients), MOST_NAMED)
    with matplotlib.style.context(["default", LOOK]):
        figure = Picture(figsize=(INCHES_WIDE, height), layout="constrained")
        axes = figure.subplots()
        for line, patient in enumerate(patients):
            axes.plot(own[patient], [line] * len(own[patient]), "o", color=DOTS, alpha=0.7, ms=5)
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
