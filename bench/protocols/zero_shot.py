"""Zero-shot: nothing is trained, and the backbone's own masks are scored."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.errors import BenchError
from bench.protocols._parts import parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan one trial without training images: the test split, or with folds one trial a fold.

    With folds every image is scored once, in the folds of the protocols that train, so that rows
    can be compared image by image.

    Raises:
        BenchError: there is no test split and no folds, or more folds than patients.
    """
    if options.folds:
        return [trial(tags, (), test, options.seed) for tags, _, test in parts(samples, options)]
    test = tuple(sample.id for sample in samples if sample.split == "test")
    if not test:
        raise BenchError(
            f"none of the {len(samples)} images is in the test split. "
            "Use --folds K to score every image."
        )
    return [trial({}, (), test, options.seed)]


ZERO_SHOT = Protocol(
    name="zero-shot",
    plan=plan,
    head="logits",
    frozen=True,  # what would have to train first has no masks yet
    title="The backbone's own masks, without any training",
)
