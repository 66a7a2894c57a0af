"""Train on all training images: `full` with any head, `linear-probe` with the linear head."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.protocols._splits import parts, trial


def plan(samples: Sequence[Sample], options: PlanOptions) -> list[Trial]:
    """Plan one trial per part: train on the whole training split, or on all other folds."""
    return [trial(tags, train, test, options.seed) for tags, train, test in parts(samples, options)]


FULL = Protocol(name="full", plan=plan, title="Any head, trained on the full training split")
LINEAR_PROBE = Protocol(
    name="linear-probe",
    plan=plan,
    head="linear",
    frozen=True,
    title="A linear head, trained on the full training split",
)
