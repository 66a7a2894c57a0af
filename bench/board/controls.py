"""Several seeds of one untrained control, shown as one row.

The seed of random weights is a sample like the draw of a support set: the runs become one record
with a draw per seed, so that its score is the mean over seeds, its interval resamples patients and
seeds, and tests count it once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from bench.api.record import Record, canonical

TAG = "weights_seed"


def over_seeds(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Group the runs that differ only in the seed of an untrained backbone, ordered by seed.

    Other runs are groups of one. Groups keep the order of their first runs.
    """
    groups: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        body = {**record.spec.to_json(), "repeat": 0, "sources": "", "numerics_version": 0}
        if seed_of(record) is not None:
            body["backbone"]["weights"] = "random"
        groups[canonical(body)].append(record)
    return [tuple(sorted(group, key=lambda run: seed_of(run) or 0)) for group in groups.values()]


def merged(runs: Sequence[Record]) -> Record:
    """Return one record with the trials of all seeds, each tagged with its seed."""
    first = runs[0]
    if len(runs) == 1:
        return first
    trials = [
        replace(trial, tags={**trial.tags, TAG: seed_of(run) or 0})
        for run in runs
        for trial in run.trials
    ]
    facts = {**first.facts, "weights_seeds": [seed_of(run) for run in runs]}
    return replace(first, facts=facts, trials=tuple(trials))


def seed_of(record: Record) -> int | None:
    """Return the seed of the weights of an untrained backbone; None for other backbones."""
    kind, _, seed = record.spec.backbone.weights.partition(":")
    is_untrained = kind == "random" and "untrained" in record.flags
    return int(seed) if is_untrained and seed.isdecimal() else None
