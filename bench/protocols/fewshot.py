"""Few-shot protocol: train on K images, with the same nested support sets for all backbones.

K can count nuclei instead of images: an image with hundreds of nuclei has more labels than one with
three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.board.curves import groups_by_size, report_on_labels
from bench.errors import BenchError
from bench.protocols._splits import ordering, parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan `draws` trials per part, each with a support set of `shots` training images or nuclei.

    A draw is an ordering of the training images, seeded by their ids, the run's seed and the index
    of the draw; its support set is the first K images, or the first images with at least K nuclei.
    So support sets are nested in K and shared by all backbones. Images are only read to count
    nuclei.

    Raises:
        BenchError: K exceeds a training split, K or the number of draws is below 1, or unknown unit
            of K.
    """
    if options.shots < 1 or options.draws < 1:
        raise BenchError(
            f"--shots {options.shots} --draws {options.draws}: both must be at least 1."
        )
    if options.by not in ("images", "nuclei"):
        raise BenchError(f"--shots-unit {options.by!r} is not one of images, nuclei.")
    count = _nuclei_counter(samples) if options.by == "nuclei" else lambda _: 1
    trials = []
    for tags, train, test in parts(samples, options):
        for draw in range(options.draws):
            support = _support(ordering(train, options.seed, draw), options, count)
            trial_tags = tags | {"shots": options.shots, "draw": draw}
            trials.append(trial(trial_tags, support, test, options.seed))
    return trials


def _support(ordered: list[str], options: PlanOptions, count: Callable[[str], int]) -> list[str]:
    """Return the first images whose counts sum to at least K."""
    total = 0
    for n_images, image in enumerate(ordered, start=1):
        total += count(image)
        if total >= options.shots:
            return ordered[:n_images]
    unit = "training images" if options.by == "images" else "nuclei of the training images"
    raise BenchError(
        f"--shots {options.shots} is more than the {total} {unit}. Choose at most {total}."
    )


def _nuclei_counter(samples: Sequence[Sample]) -> Callable[[str], int]:
    """Return a function that counts the nuclei of an image, reading each image once."""
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
    report=report_on_labels,
    group_by=groups_by_size("fewshot", "shots"),
    title="K training images, D draws of nested support sets shared by all backbones",
)
