"""Check that a record has the fields that displays need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from bench.errors import BenchError
from bench.record import Record

SPEC: Mapping[
    str, Mapping[str, type | tuple[type, ...]]
] = {  # fields of the identity that displays need
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
    """Yield a description of every field that is missing or has the wrong type."""
    for name, kinds in SPEC.items():
        fields = record.spec.get(name) if name else record.spec
        if isinstance(fields, Mapping):
            yield from _type_problems(fields, kinds, name or "identity")
        else:
            yield f"its {name} is {fields!r}"
    yield from _type_problems(record.facts, FACTS, "facts")
    losses = [trial.loss for trial in record.trials]
    if invalid := [loss for loss in losses if not (loss is None or _is_finite(loss))]:
        yield f"the loss of a trial is {invalid[0]!r}"
    if not all(isinstance(flag, str) for flag in record.flags):
        yield f"its flags are {record.flags}"


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # pyright: ignore


def _type_problems(
    fields: Mapping[str, object], kinds: Mapping[str, type | tuple[type, ...]], where: str
) -> Iterator[str]:
    for key, kind in kinds.items():
        if key not in fields or not isinstance(fields[key], kind):
            yield f"its {where} has {fields.get(key)!r} as {key}"


def refusal(record: Record) -> BenchError | None:
    """Return an error if displays cannot show a record, such as one of an older version."""
    problem = next(oddities(record), "")
    if not problem:
        return None
    return BenchError(
        f"the run {record.run_id} cannot be shown: {problem}. It was written by an older version: "
        "delete its folder and repeat the command of the run"
    )
