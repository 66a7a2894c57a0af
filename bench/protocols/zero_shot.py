"""Zero-shot protocol: score the masks of the backbone itself, without training."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.errors import BenchError
from bench.protocols._splits import parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan trials without training images: one for the test split, or one per fold.

    The folds are those of the protocols that train, so every image is scored once and scores can be
    compared image by image.

    Raises:
        BenchError: no test split and no folds, or more folds than patients.
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
    frozen=True,  # a backbone that needs training has no masks yet
    title="Masks of the backbone itself, without training",
)
