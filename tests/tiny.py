"""Tiny data sets, backbones and runs that the tests share."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, HeadPlugin, Labelled, Recipe, Weights
from bench.api.nn import FeatureExtractor
from bench.api.record import SCHEMA, Record
from bench.api.report import Outcome
from bench.api.run_config import RunConfig
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
from bench.heads._linear import LinearHead
from bench.runs.execute import Paths, execute
from bench.store.results import Store

SIDE = 32
FEWSHOT = {"protocol": "fewshot", "shots": 2, "draws": 2}
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


# ---- runs through the library ----------------------------------------------------------------


def squares(root: Path, count: int = 14, seed: int = 0) -> Path:
    """Write a data set of dark squares, one patient per image; the first half is for training."""
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
    """Return the config of a quick linear head on raw colours."""
    plain = RunConfig(
        backbone="rgb",
        dataset=str(folder),
        protocol="full",
        head="linear",
        epochs=2,
        lr=0.1,
        folds=0,
        view="whole",
        input_px=SIDE,
    )
    return replace(plain, **changes)


def run(config: RunConfig, home: Path, *, save_masks: bool = False) -> Outcome:
    """Execute a config; its record is stored in home / "results"."""
    paths = Paths(home / "results", cache=home / "cache")
    return execute(config, paths, lambda *_: None, save_masks=save_masks)


def tiny_run(home: Path, **changes: object) -> Record:
    """Run a quick linear head on the data set home / "squares", which is created if missing."""
    folder = home / "squares"
    if not folder.exists():
        squares(folder)
    return run(request(folder, **changes), home).record


# ---- changed copies of records ---------------------------------------------------------------


def altered(record: Record, **parts: Mapping[str, object] | object) -> Record:
    """Change parts of the identity of a run; a mapping changes only the fields that it names."""
    return replace(record, spec=changed_spec(record.spec, **parts))


def changed_spec(spec: RunSpec, **parts: Mapping[str, object] | object) -> RunSpec:
    """Change parts of an identity; a mapping changes only the fields that it names."""
    body = spec.to_json()
    for name, value in parts.items():
        merges = isinstance(value, Mapping) and isinstance(body[name], Mapping)
        body[name] = {**body[name], **value} if merges else value  # pyright: ignore[reportGeneralTypeIssues]
    return RunSpec.from_json(body)


def named(record: Record, name: str) -> Record:
    """Return the run with another backbone name."""
    return altered(record, backbone={"name": name})


def worse(record: Record, share: float) -> Record:
    """Turn a share of the true positive pixels of every image into false negatives."""
    trials = []
    for trial in record.trials:
        lost = [share * pixels for pixels in trial.counts["tp"]]
        tp = tuple(pixels - gone for pixels, gone in zip(trial.counts["tp"], lost, strict=True))
        fn = tuple(pixels + gone for pixels, gone in zip(trial.counts["fn"], lost, strict=True))
        trials.append(replace(trial, counts={**trial.counts, "tp": tp, "fn": fn}))
    return replace(record, trials=tuple(trials))


def commit(record: Record, home: Path) -> None:
    """Commit a record to the store home / "results"."""
    Store(home / "results").commit(record, {"finished": "2026-01-01T00:00:00+00:00"})


# ---- runs through the command line -----------------------------------------------------------


class Colours(FeatureExtractor):
    """One frozen 1 x 1 convolution."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (2,), (1,)
    opened = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        type(self).opened += not torch.empty(0).is_meta
        self.channels = (width,)
        self.conv = nn.Conv2d(3, width, 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]  # (N, C, H, W)


class Blurred(LinearHead):
    """A linear head on blurred maps."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__(channels, classes)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return super().forward([nn.functional.avg_pool2d(m, 5, 1, 2) for m in maps], size)


HEAD = HeadPlugin("blurred", Blurred)
BACKBONES = (
    Backbone("one-colour", lambda: Colours(1), weights=Weights(needed=False)),
    Backbone("two-colours", lambda: Colours(2), weights=Weights(needed=False)),
    Backbone("three-colours", lambda: Colours(3), weights=Weights(needed=False)),
    Backbone("unreleased", lambda: Colours(4)),  # its weights do not exist
)


@dataclass(frozen=True)
class CommandResult:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The JSON document on standard output."""
        return json.loads(self.out)

    @property
    def run(self) -> dict:
        """The only run of the document that `bench run --json` prints."""
        (run,) = self.json["runs"]
        return run


def bench(*words: object) -> CommandResult:
    """Run the command line in this process."""
    from bench.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *map(str, words)])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
    return CommandResult(int(stop.value.code or 0), out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Place:
    """A folder with data, cache and results, and the command that uses them."""

    home: Path
    bench: Callable[..., CommandResult]

    @property
    def records(self) -> dict[str, bytes]:
        """The bytes of every committed record by run id."""
        paths = self.home.glob("results/runs/*/*/record.json")
        return {path.parent.name: path.read_bytes() for path in paths}


def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Write two data sets, register the backbones and the head, and return the command."""
    backbones, heads = (registry.catalogue(kind).found for kind in ("backbones", "heads"))
    for record in BACKBONES:
        monkeypatch.setitem(backbones, record.name, [registry.LoadedPlugin(record, "a test")])
    monkeypatch.setitem(heads, HEAD.name, [registry.LoadedPlugin(HEAD, "a test")])
    for number, name in enumerate(("tnbc", "kumar")):
        write(_small_squares(number), home / "data" / name, about="squares")
    for name in ("data", "cache", "results"):
        monkeypatch.setenv(f"BENCH_{name.upper()}", str(home / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    return Place(home, bench)


def _small_squares(seed: int, patients: int = 20) -> list[Labelled]:
    """Draw one to three squares per image, one patient per image; half are for training."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(patients):
        instances = np.zeros((24, 28), np.uint16)
        for label, (y, x) in enumerate(rng.integers(1, 17, (number % 3 + 1, 2)), start=1):
            instances[y : y + 6, x : x + 6] = label
        image = rng.integers(140, 220, (24, 28, 3)).astype(np.uint8)
        image[instances > 0] -= 70
        split = "train" if number < patients // 2 else "test"
        patient = f"{seed}p{number}"
        samples.append(Labelled(f"s{seed}-{number:02}", image, instances, split, patient))
    return samples
