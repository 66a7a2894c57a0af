"""What every display reads of a record: a version that lacks it cannot be shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from bench.errors import BenchError
from bench.record import Record

SPEC: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {  # what displays read of an identity
    "dataset": {"name": str, "sha256": str},
    "scored": {"name": str, "sha256": str, "shift": str},
    "backbone": {"name": str, "weights": str, "options": dict},
    "head": {"name": str},
    "protocol": {"name": str, "folds": int, "seed": int},
    "view": {"kind": str, "px": int},
    "recipe": {},
    "": {"precision": str, "metrics_version": int, "ttt": (dict, type(None))},
}
FACTS: Mapping[str, type | tuple[type, ...]] = {
    "dataset": str,
    "scored": str,
    "head_parameters": int,
}


def oddities(record: Record) -> Iterator[str]:
    """Say which of the fields are missing or of another kind, each in words."""
    for name, kinds in SPEC.items():
        own = record.spec.get(name) if name else record.spec
        if isinstance(own, Mapping):
            yield from _of_kinds(own, kinds, name or "identity")
        else:
            yield f"its {name} is {own!r}"
    yield from _of_kinds(record.facts, FACTS, "facts")
    losses = [trial.loss for trial in record.trials]
    if odd := [loss for loss in losses if not (loss is None or _is_finite(loss))]:
        yield f"the loss of a trial is {odd[0]!r}"
    if not all(isinstance(flag, str) for flag in record.flags):
        yield f"its flags are {record.flags}"


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # pyright: ignore


def _of_kinds(
    own: Mapping[str, object], kinds: Mapping[str, type | tuple[type, ...]], where: str
) -> Iterator[str]:
    for key, kind in kinds.items():
        if key not in own or not isinstance(own[key], kind):
            yield f"its {where} has {own.get(key)!r} as {key}"


def refusal(record: Record) -> BenchError | None:
    """Tell a record that no display can show, as those of older versions, with the cure."""
    found = next(oddities(record), "")
    return (
        BenchError(
            f"the run {record.run_id} cannot be shown: {found}. An older version made it: give the "
            "command of the run again, and delete its folder"
        )
        if found
        else None
    )
