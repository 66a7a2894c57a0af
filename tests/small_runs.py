"""Small real runs, and altered copies of them, for tests of what is made of committed runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.api import Labelled, Recipe
from bench.api.config import RunConfig
from bench.api.record import SCHEMA, Record
from bench.api.report import Outcome
from bench.api.spec import (
    BackboneSpec,
    DatasetSpec,
    HeadSpec,
    ProtocolSpec,
    RunSpec,
    ScoredSpec,
    ViewSpec,
)
from bench.data.folder import write
from bench.runs.execute import Paths, execute
from bench.store.results import Store

SIDE = 32
SPEC = RunSpec(
    schema=SCHEMA,
    metrics_version=1,
    numerics_version=1,
    dataset=DatasetSpec("squares", "0", None),
    backbone=BackboneSpec("rgb", "none", {}),
    head=HeadSpec("linear"),
    recipe=Recipe(),
    ttt=None,
    scored=ScoredSpec("squares", "0", ""),
    protocol=ProtocolSpec("linear-probe", {"folds": 0, "seed": 0}),
    view=ViewSpec("whole", SIDE),
    precision="fp32",
    sources="0",
    repeat=0,
)
FACTS = {"dataset": "squares", "scored": "squares", "head_parameters": 8}


def squares(root: Path, count: int = 14, seed: int = 0) -> Path:
    """Write a folder of dark squares: half of the images train, each has its own patient."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        instances = np.zeros((SIDE, SIDE + 8), np.uint16)
        y, x = rng.integers(1, SIDE - 12, 2)
        instances[y : y + 10, x : x + 10] = 1
        image = rng.integers(140, 220, (SIDE, SIDE + 8, 3)).astype(np.uint8)
        image[instances > 0] -= 90
        split = "train" if number < count // 2 else "test"
        samples.append(Labelled(f"i_{number:02}", image, instances, split, f"p{number}"))
    write(samples, root, about="squares")
    return root


def request(folder: Path, **changes: object) -> RunConfig:
    """Ask for a quick linear head on raw colour."""
    asked = RunConfig(
        backbone="rgb",
        dataset=str(folder),
        protocol="full",
        head="linear",
        epochs=2,
        lr=0.1,
        input_px=SIDE,
    )
    return replace(asked, **changes)


def run(asked: RunConfig, home: Path, *, save_masks: bool = False) -> Outcome:
    """Run what is asked for; its record lies in home / "results"."""
    places = Paths(home / "results", cache=home / "cache")
    return execute(asked, places, lambda *_: None, save_masks=save_masks)


def altered(record: Record, **parts: Mapping[str, object] | object) -> Record:
    """Change parts of the identity of a run: a mapping changes the fields that it names."""
    return replace(record, spec=changed_spec(record.spec, **parts))


def changed_spec(spec: RunSpec, **parts: Mapping[str, object] | object) -> RunSpec:
    """Change parts of an identity: a mapping changes the fields that it names."""
    body = spec.to_json()
    for name, value in parts.items():
        merges = isinstance(value, Mapping) and isinstance(body[name], Mapping)
        body[name] = {**body[name], **value} if merges else value  # pyright: ignore[reportGeneralTypeIssues]
    return RunSpec.from_json(body)


def named(record: Record, name: str) -> Record:
    """Give a run to another backbone."""
    return altered(record, backbone={"name": name})


def worse(record: Record, share: float) -> Record:
    """Turn a share of the found pixels of every image into missed ones."""
    trials = []
    for trial in record.trials:
        lost = [share * each for each in trial.counts["tp"]]
        tp = tuple(each - own for each, own in zip(trial.counts["tp"], lost, strict=True))
        fn = tuple(each + own for each, own in zip(trial.counts["fn"], lost, strict=True))
        trials.append(replace(trial, counts={**trial.counts, "tp": tp, "fn": fn}))
    return replace(record, trials=tuple(trials))


def commit(record: Record, home: Path) -> None:
    """Put a record into the store in home / "results"."""
    Store(home / "results").commit(record, {"finished": "2026-01-01T00:00:00+00:00"})


FEWSHOT = {"protocol": "fewshot", "shots": 2, "draws": 2}
