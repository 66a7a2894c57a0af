"""Few-shot: train on K images, several times, with the same support sets for every backbone.

K may count nuclei instead: an image of hundreds is not the label of one that shows three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.errors import BenchError
from bench.protocols._growth import recall_of, tell_of_labels
from bench.protocols._parts import ordering, parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan `draws` trials a part, each with a support set of `shots` training images or nuclei.

    A draw is an ordering of the training images, seeded by their ids, the run's seed and the draw's
    number; its support set is the first K, or as many as it takes until K nuclei are in. So sets
    are nested in K and shared by all backbones. Images are read only where nuclei are counted.

    Raises:
        BenchError: K is larger than a training split, K or the number of draws is below 1, or
            neither images nor nuclei are to be counted.
    """
    if options.shots < 1 or options.draws < 1:
        raise BenchError(
            f"--shots {options.shots} --draws {options.draws}: both must be at least 1."
        )
    if options.by not in ("images", "nuclei"):
        raise BenchError(f"--by {options.by!r} is not one of images, nuclei.")
    counted = _nuclei(samples) if options.by == "nuclei" else lambda _: 1
    trials = []
    for tags, train, test in parts(samples, options):
        for draw in range(options.draws):
            support = _support(ordering(train, options.seed, draw), options, counted)
            own = tags | {"shots": options.shots, "draw": draw}
            trials.append(trial(own, support, test, options.seed))
    return trials


def _support(ordered: list[str], options: PlanOptions, counted: Callable[[str], int]) -> list[str]:
    """Take images in their order until K are in, of what is counted."""
    total = 0
    for taken, image in enumerate(ordered, start=1):
        total += counted(image)
        if total >= options.shots:
            return ordered[:taken]
    what = "training images" if options.by == "images" else "nuclei of the training images"
    raise BenchError(
        f"--shots {options.shots} is more than the {total} {what}. Choose at most {total}."
    )


def _nuclei(samples: Sequence[Sample]) -> Callable[[str], int]:
    """Give a function that counts the nuclei of an image; each is read once."""
    by_id = {sample.id: sample for sample in samples}

    @cache
    def count(image: str) -> int:
        _, instances = by_id[image].read()
        return int(np.count_nonzero(np.unique(instances)))

    return count


FEWSHOT = Protocol(
    name="fewshot",
    plan=plan,
    options=("shots", "draws", "by"),
    tell=tell_of_labels,
    recall=recall_of("fewshot", "shots"),
    title="K training images, D draws of nested support sets shared by all backbones",
)
