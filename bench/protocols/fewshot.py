"""Few-shot: train on K images, several times, with the same support sets for every backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.errors import BenchError
from bench.protocols._parts import parts, seed_of, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan `draws` trials a part, each with a support set of `shots` training images.

    A draw is an ordering of the training images, seeded by their ids, the run's seed and the draw's
    number; its support set is the first K. So sets are nested in K and shared by all backbones.

    Raises:
        BenchError: K is larger than a training split, or K or the number of draws is below 1.
    """
    if options.shots < 1 or options.draws < 1:
        raise BenchError(
            f"--shots {options.shots} --draws {options.draws}: both must be at least 1."
        )
    trials = []
    for tags, train, test in parts(samples, options):
        if options.shots > len(train):
            raise BenchError(
                f"--shots {options.shots} is more than the {len(train)} training images. "
                f"Choose at most {len(train)}."
            )
        for draw in range(options.draws):
            ordered = _ordering(train, options.seed, draw)
            own = tags | {"shots": options.shots, "draw": draw}
            trials.append(trial(own, ordered[: options.shots], test, options.seed))
    return trials


def _ordering(train: Sequence[str], seed: int, draw: int) -> list[str]:
    ids = sorted(train)
    rng = np.random.default_rng(seed_of("support", seed, draw, *ids))
    return [ids[i] for i in rng.permutation(len(ids))]


FEWSHOT = Protocol(
    name="fewshot",
    plan=plan,
    options=("shots", "draws"),
    title="K training images, D draws of nested support sets shared by all backbones",
)
