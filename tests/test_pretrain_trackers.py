"""Trackers follow a training, are told no place, go on with it, and never stop it."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from bench.api import Backbone
from bench.errors import BenchError
from bench.pretrain.job import Job, prepare
from bench.pretrain.settings import Routine, Settings
from bench.pretrain.trackers import TELEMETRY_OFF, TRACKERS
from bench.pretrain.trainer import Outcome, train

SETTINGS = Settings("narrow", batch_size=2, lr=1e-3, ema=0.5, precision="fp32", crop_px=32)
SETTINGS = replace(SETTINGS, held_out=1)
NAMES = sorted(TRACKERS)


class OneLayer(nn.Module):
    """The least that can be trained."""

    def __init__(self, *, cond_dim: int | None) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layer(images)  # (N, 3, H, W)


NARROW = Backbone(name="narrow", build=OneLayer, network=OneLayer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def _train(images: Path, out: Path, steps: int, track: str) -> Outcome:
    routine = Routine(steps=steps, save_every=2, validate_every=2, track=track)
    job: Job = prepare(NARROW, SETTINGS, routine, images, out)
    return train(job, lambda stage, done, total: None)


class Fakes:
    """Stand-ins of the three packages: they keep what they are told, and fail on demand."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.seen: dict[int, dict[str, float]] = {}
        self.ended = 0
        self.fails_at: int | None = None
        self.calls_that_failed = 0

    def log(self, scalars: dict[str, float], step: int) -> None:
        if self.fails_at is not None and step >= self.fails_at:
            self.calls_that_failed += 1
            raise ConnectionError("no network")
        assert step not in self.seen
        self.seen[step] = scalars

    def init(self, project: str, **words: Any) -> SimpleNamespace:
        if self.fails_at == 0:
            raise PermissionError("not logged in")
        self.begun.append({"project": project, **words})
        print("hello")
        return SimpleNamespace(log=self.log, finish=self.finish)

    def finish(self) -> None:
        self.ended += 1


class Client:
    """The calls of MLflow's client that are made."""

    def __init__(self, fakes: Fakes, tracking_uri: str) -> None:
        self.fakes, self.uri = fakes, tracking_uri

    def get_experiment_by_name(self, name: str) -> object:
        assert name == "cmd-bench"
        return SimpleNamespace(experiment_id="1") if self.fakes.begun else None

    def create_experiment(self, name: str) -> str:
        return "1"

    def create_run(self, experiment: str, run_name: str) -> object:
        assert experiment == "1"
        self.fakes.init("", id="r1", name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def get_run(self, run_id: str) -> object:
        self.fakes.init("", id=run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str) -> None:
        assert (run_id, status) == ("r1", "RUNNING")

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert run_id == "r1"
        if params:
            self.fakes.begun[-1]["config"] = dict(params)
        for step in dict.fromkeys(each[3] for each in metrics):
            self.fakes.log({each[0]: each[1] for each in metrics if each[3] == step}, step)

    def set_terminated(self, run_id: str) -> None:
        self.fakes.finish()


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    return module


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    own = Fakes()
    entities = {"Metric": lambda *each: each, "Param": lambda *each: each}
    modules = [
        _module("wandb", init=own.init, finish=own.finish, Settings=dict),
        _module("mlflow"),
        _module("mlflow.entities", **entities),
        _module("mlflow.tracking", MlflowClient=lambda tracking_uri: Client(own, tracking_uri)),
        _module("trackio", init=own.init, finish=own.finish),
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("bench.pretrain.trackers.SEND_S", -1)  # each step at once
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI", *TELEMETRY_OFF):
        monkeypatch.setenv(variable, "")  # so that it is as it was, afterwards
        monkeypatch.delenv(variable)
    return own


def _logged(out: Path) -> dict[int, dict[str, float]]:
    header, *rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    told = [dict(zip(header, row, strict=True)) for row in rows]
    return {
        int(row["step"]): {k: float(v) for k, v in row.items() if v and k != "step"} for row in told
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_is_told_each_step_once_and_goes_on_with_its_run(
    fakes: Fakes, images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(images, tmp_path, 2, name).finished
    assert _train(images, tmp_path, 5, name).finished
    assert fakes.seen == _logged(tmp_path)
    assert fakes.ended == 2
    key = "name" if name == "trackio" else "id"
    assert len({each[key] for each in fakes.begun}) == 1
    _train(images, tmp_path, 5, name)  # nothing is left to be told
    assert len(fakes.begun) == 2
    if name == "trackio":  # it prints where the result belongs
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_is_told_no_place_of_this_machine(
    fakes: Fakes, images: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "dr-miller"
    _train(images, secret, 2, name)
    (begun,) = fakes.begun
    begun.pop("dir", None)  # where it writes, not what it sends
    assert begun["config"]["lr"] in (1e-3, "0.001")
    for place in (*tmp_path.parts[1:], "dr-miller", *images.parts[1:]):
        assert place not in repr(begun["config"]).split("'")
    assert "dr-miller" not in repr(begun)
    assert str(images) not in repr(begun)
    assert all(os.environ[variable] == usual for variable, usual in TELEMETRY_OFF.items())


def test_wandb_is_offline_unless_its_own_variable_says_otherwise(
    fakes: Fakes, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(images, tmp_path / "a", 1, "wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    _train(images, tmp_path / "b", 1, "wandb")
    assert [each["mode"] for each in fakes.begun] == ["offline", "online"]
    assert fakes.begun[0]["settings"]["x_disable_meta"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_fails_in_the_middle_is_told_of_once_and_stops_nothing(
    fakes: Fakes, images: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    untracked = _train(images, tmp_path / "untracked", 4, "")
    fakes.fails_at = 2
    with caplog.at_level(logging.WARNING, "bench"):
        tracked = _train(images, tmp_path / "tracked", 4, name)
    assert (tracked.finished, tracked.loss) == (True, untracked.loss)
    assert list(fakes.seen) == [1]
    (warning,) = caplog.messages
    assert f"--track {name} failed at step 2 (ConnectionError: no network)" in warning
    assert len(_logged(tmp_path / "tracked")) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_cannot_begin_is_an_error_before_the_first_step(
    fakes: Fakes, images: Path, tmp_path: Path, name: str
) -> None:
    fakes.fails_at = 0
    with pytest.raises(BenchError, match=f"--track {name} cannot start .*not logged in"):
        _train(images, tmp_path, 2, name)
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_pip_line(
    images: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.pretrain.trackers.find_spec", lambda _: None)
    with pytest.raises(BenchError, match=f"pip install {name}"):
        _train(images, tmp_path, 2, name)


def test_an_unknown_tracker_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="wandb or mlflow or trackio"):
        _train(images, tmp_path, 2, "neptune")


# ---- the real packages -----------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Give a function that counts the steps that a real tracker keeps in this folder."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for variable, usual in TELEMETRY_OFF.items():
        monkeypatch.setenv(variable, usual)

    def steps(name: str) -> int:
        if name == "wandb":
            return len(list(tmp_path.glob("out/wandb/offline-run-*/run-*.wandb")))
        file = "out/mlflow.db" if name == "mlflow" else "trackio/cmd-bench.db"
        with sqlite3.connect(tmp_path / file) as kept:
            (told,) = kept.execute("select count(distinct step) from metrics").fetchone()
        kept.close()
        return told

    return steps


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kept"), [("mlflow", 4), ("trackio", 4), ("wandb", 2)])
def test_a_real_tracker_keeps_a_training_that_goes_on(
    images: Path, tmp_path: Path, name: str, kept: int, here: Callable[[str], int]
) -> None:
    pytest.importorskip(name)
    for steps in (2, 4):
        assert _train(images, tmp_path / "out", steps, name).finished
    assert here(name) == kept
