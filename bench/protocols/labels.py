"""Labels protocol: train on a fraction of the training images, with nested sets like few-shot."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.board.curves import groups_by_size, report_on_labels
from bench.errors import BenchError
from bench.protocols._splits import ordering, parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan `draws` trials per part, each on a fraction of the training images, at least one image.

    The orderings are those of few-shot runs, so sets of the same size are equal. With all images
    the draws differ only in the seed of the training.

    Raises:
        BenchError: a fraction outside (0, 1], or a number of draws below 1.
    """
    if not 0 < options.fraction <= 1 or options.draws < 1:
        raise BenchError(
            f"--fractions {options.fraction:g} --draws {options.draws}: a fraction must be above 0 "
            "and at most 1, and the number of draws at least 1."
        )
    trials = []
    for tags, train, test in parts(samples, options):
        size = max(1, round(options.fraction * len(train)))
        for draw in range(options.draws):
            support = ordering(train, options.seed, draw)[:size]
            trials.append(trial(tags | {"draw": draw}, support, test, options.seed))
    return trials


LABELS = Protocol(
    name="labels",
    plan=plan,
    options=("fraction", "draws"),
    report=report_on_labels,
    group_by=groups_by_size("labels", "fraction"),
    title="A fraction of the training images, D draws of nested sets shared by all backbones",
)
