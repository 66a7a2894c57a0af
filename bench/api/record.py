"""The record of a run: its identity and its raw counts, immutable, with a hash.

Scores are not stored: they are computed from the raw counts of each image and trial.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from bench.api.spec import RunSpec, check_type
from bench.errors import BenchError, Damaged

SCHEMA = 2
FACTS = {"dataset": str, "scored": str, "head_parameters": int}  # facts that displays need
NUMERICS_VERSION = 2
"""Part of the identity of every run; increased when the values of `tests/golden.json` change."""

Draw = tuple[tuple[str, int], ...]  # tags and their values, sorted by name


def draw_of(tags: Mapping[str, int]) -> Draw:
    """Return the tags without the fold, sorted by name: the trials of one draw share them."""
    return tuple(sorted((key, value) for key, value in tags.items() if key != "fold"))


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        tags: the tags of the planned trial, for example {"shots": 5, "draw": 0}.
        train: ids of the training images (for few-shot the support set).
        loss: mean training loss of the last epoch, or at the minimum; None without training.
        images: ids of the scored images.
        counts: by name of the count, one number per image, in the order of `images`.
        training: how the training ended: "converged" (bool), and for the linear probe the chosen
            "lambda" and "threshold", the cross-validation, iterations and gradient; empty in runs
            of earlier versions.
    """

    tags: Mapping[str, int]
    train: tuple[str, ...]
    loss: float | None
    images: tuple[str, ...]
    counts: Mapping[str, tuple[float, ...]]
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the result as a JSON object."""
        body = asdict(self)
        if not self.training:
            del body["training"]
        return body

    @property
    def draw(self) -> Draw:
        """The tags that the trials of one draw share."""
        return draw_of(self.tags)


@dataclass(frozen=True)
class Record:
    """One committed run.

    Attributes:
        spec: the identity: everything that was configured and can change a number.
        facts: information for display: names, numbers of parameters, strides, source of weights.
        patients: the patient of every scored image, by image id.
        flags: marks that every display of the run must show ("untrained", "smoke", ...).
    """

    spec: RunSpec
    facts: Mapping[str, object]
    patients: Mapping[str, str]
    flags: tuple[str, ...]
    trials: tuple[TrialResult, ...] = field(repr=False)

    @cached_property
    def run_id(self) -> str:
        """The first 16 hex digits of the hash of the identity."""
        return identify(self.spec)

    @property
    def is_untrained_control(self) -> bool:
        """Whether the backbone has random weights although it has released ones."""
        return bool(self.facts.get("random_twin"))

    @cached_property
    def request(self) -> bytes:
        """The identity without the repeat and the version of the code, as canonical JSON."""
        earlier = {"repeat": 0, "sources": "", "numerics_version": 0}
        return canonical({**self.spec.to_json(), **earlier})

    @cached_property
    def images(self) -> list[str]:
        """The scored images, sorted."""
        return sorted(self.patients)

    @cached_property
    def draws(self) -> list[Draw]:
        """The draws; every image was scored once per draw."""
        return sorted({trial.draw for trial in self.trials})

    @cached_property
    def places(self) -> list[tuple[int, list[int]]]:
        """The row and the columns of each trial in a grid of (draws, images)."""
        column = {image: i for i, image in enumerate(self.images)}
        row = {draw: i for i, draw in enumerate(self.draws)}
        return [
            (row[trial.draw], [column[image] for image in trial.images]) for trial in self.trials
        ]


def identify(spec: RunSpec) -> str:
    """Return the run id of an identity: 16 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical(spec.to_json())).hexdigest()[:16]


def canonical(value: object) -> bytes:
    """Return the JSON text that is hashed: sorted keys, no spaces, 1.0 as 1."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":")).encode()


def to_bytes(record: Record) -> bytes:
    """Serialise a record, with the hash of its content."""
    body = {
        "schema": SCHEMA,
        "run_id": record.run_id,
        **asdict(record),
        "spec": record.spec.to_json(),
        "trials": [trial.to_json() for trial in record.trials],
    }
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    return canonical(body) + b"\n"


def from_bytes(content: bytes, name: str) -> Record:
    """Parse a record; records of every schema are hashed in the same way.

    Raises:
        Damaged: it is truncated or changed.
        BenchError: it is undamaged, but was written by another version that stored other fields.
    """
    try:
        body = json.loads(content)
        stated, schema = body.pop("sha256"), body["schema"]
        unsigned = content.replace(f'"sha256":"{stated}",'.encode(), b"", 1).removesuffix(b"\n")
        is_whole = _sha256(unsigned) == stated or _sha256(canonical(body)) == stated
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{name} is not a complete record ({error})") from error
    if schema != SCHEMA:
        kind = BenchError if is_whole else Damaged
        raise kind(f"{name} has schema {schema}; this version reads {SCHEMA}")
    if not is_whole:
        raise Damaged(f"{name} was changed: its content does not match its hash")
    try:
        return _from_json(body)
    except BenchError as error:
        raise BenchError(
            f"{name} cannot be used: {error}. It was written by another version: delete its folder "
            "and repeat the command of the run"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"{name} is not a record, although its hash matches ({error!r})") from error


def _from_json(body: Mapping) -> Record:
    """Build a record from its JSON form.

    Raises:
        BenchError: a field that displays need is missing or has the wrong type.
    """
    spec, facts, flags = RunSpec.from_json(body["spec"]), body["facts"], tuple(body["flags"])
    for key, kind in FACTS.items():
        check_type(kind, facts.get(key), f"facts' {key}")
    for flag in flags:
        check_type(str, flag, "flag")
    trials = tuple(trial_from(trial) for trial in body["trials"])
    for trial in trials:
        check_type(float | None, trial.loss, "loss of a trial")
        if trial.loss is not None and not abs(trial.loss) <= sys.float_info.max:
            raise BenchError(f"its loss of a trial is {trial.loss}")
    return Record(spec, facts, body["patients"], flags, trials)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def trial_from(body: Mapping) -> TrialResult:
    """Build the result of a trial from its JSON form."""
    counts = {name: tuple(values) for name, values in body["counts"].items()}
    return TrialResult(
        tags=body["tags"],
        train=tuple(body["train"]),
        loss=body["loss"],
        images=tuple(body["images"]),
        counts=counts,
        training=body.get("training", {}),
    )


def _plain(value: object) -> object:
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, dict | Mapping):  # the check for dict is fast
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
