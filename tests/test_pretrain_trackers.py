"""Trackers receive each step once, no path, resume with the run, and cannot stop it."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small_pretraining import pretrain, write_tiles
from torch import Tensor, nn

from bench.api import Backbone
from bench.errors import BenchError
from bench.pretrain.trackers import TELEMETRY_OFF, TRACKERS
from bench.pretrain.trainer import TrainingOutcome

NAMES = sorted(TRACKERS)


class OneLayer(nn.Module):
    """A minimal network that can be trained."""

    def __init__(self, *, cond_dim: int | None) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layer(images)  # (N, 3, H, W)


ONE_LAYER = Backbone(name="narrow", build=OneLayer, network=OneLayer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"), count=4)


def _train(images: Path, out: Path, steps: int, track: str | None) -> TrainingOutcome:
    options = {"steps": steps, "validate_every": 2, "batch_size": 2, "held_out": 1}
    return pretrain(images, out, ONE_LAYER, track=track, **options)


class Fakes:
    """Fakes of the three packages, which record their arguments and fail on demand."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.scalars: dict[int, dict[str, float]] = {}
        self.finished = 0
        self.fails_at: int | None = None

    def log(self, scalars: dict[str, float], step: int) -> None:
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("no network")
        assert step not in self.scalars
        self.scalars[step] = scalars

    def init(self, project: str, **options: Any) -> SimpleNamespace:
        if self.fails_at == 0:
            raise PermissionError("not logged in")
        self.inits.append({"project": project, **options})
        if project:  # not by MLflow's client
            print("hello")
        return SimpleNamespace(log=self.log, finish=self.finish)

    def finish(self) -> None:
        self.finished += 1


class Client:
    """The methods of MLflow's client that are used."""

    def __init__(self, fakes: Fakes, tracking_uri: str) -> None:
        self.fakes, self.uri = fakes, tracking_uri

    def get_experiment_by_name(self, name: str) -> object:
        assert name == "cmd-bench"
        return SimpleNamespace(experiment_id="1") if self.fakes.inits else None

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
            self.fakes.inits[-1]["config"] = dict(params)
        for step in dict.fromkeys(row[3] for row in metrics):
            self.fakes.log({row[0]: row[1] for row in metrics if row[3] == step}, step)

    def set_terminated(self, run_id: str) -> None:
        self.fakes.finish()


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    return module


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes()
    entities = {"Metric": lambda *values: values, "Param": lambda *values: values}
    modules = [
        _module("wandb", init=fakes.init, finish=fakes.finish, Settings=dict),
        _module("mlflow"),
        _module("mlflow.entities", **entities),
        _module("mlflow.tracking", MlflowClient=lambda tracking_uri: Client(fakes, tracking_uri)),
        _module("trackio", init=fakes.init, finish=fakes.finish),
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("bench.pretrain.trackers.SEND_S", -1)  # send every step immediately
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI", *TELEMETRY_OFF):
        monkeypatch.setenv(variable, "")  # so that monkeypatch restores it
        monkeypatch.delenv(variable)
    return fakes


def _logged(out: Path) -> dict[int, dict[str, float]]:
    header, *rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    steps = [dict(zip(header, row, strict=True)) for row in rows]
    return {
        int(row["step"]): {k: float(v) for k, v in row.items() if v and k != "step"}
        for row in steps
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_receives_each_step_once_and_no_path_and_resumes_its_run(
    fakes: Fakes, images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dr-miller"
    for steps in (2, 5, 5):  # the last has no step left
        assert _train(images, out, steps, name).finished
    assert fakes.scalars == _logged(out)
    assert fakes.finished == len(fakes.inits) == 2
    key = "name" if name == "trackio" else "id"
    assert len({init[key] for init in fakes.inits}) == 1
    assert capsys.readouterr().out == ""  # trackio.init prints
    fakes.inits[0].pop("dir", None)  # where it writes, not what it sends
    assert fakes.inits[0]["config"]["lr"] in (1e-3, "0.001")
    for part in ("dr-miller", str(images), str(tmp_path)):
        assert part not in repr(fakes.inits[0])
    assert all(os.environ[variable] == value for variable, value in TELEMETRY_OFF.items())


def test_wandb_is_offline_unless_its_variable_is_set(
    fakes: Fakes, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(images, tmp_path / "a", 1, "wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    _train(images, tmp_path / "b", 1, "wandb")
    assert [row["mode"] for row in fakes.inits] == ["offline", "online"]
    assert fakes.inits[0]["settings"]["x_disable_meta"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_fails_raises_before_the_first_step_and_is_a_warning_later(
    fakes: Fakes, images: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.fails_at = 0
    with pytest.raises(BenchError, match=f"--track {name} cannot start .*not logged in"):
        _train(images, tmp_path / "tracked", 4, name)
    assert not (tmp_path / "tracked" / "log.csv").exists()
    untracked = _train(images, tmp_path / "untracked", 4, None)
    fakes.fails_at = 2
    with caplog.at_level(logging.WARNING, "bench"):
        tracked = _train(images, tmp_path / "tracked", 4, name)
    assert (tracked.finished, tracked.loss) == (True, untracked.loss)
    assert list(fakes.scalars) == [1]
    (warning,) = caplog.messages
    assert f"--track {name} failed at step 2 (ConnectionError: no network)" in warning
    assert len(_logged(tmp_path / "tracked")) == 4


def test_a_missing_package_raises_with_its_pip_command(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.pretrain.trackers.find_spec", lambda _: None)
    with pytest.raises(BenchError, match="pip install mlflow"):
        _train(images, tmp_path, 2, "mlflow")
    with pytest.raises(BenchError, match="not one of wandb, mlflow, trackio"):
        _train(images, tmp_path, 2, "neptune")


# ---- the real packages -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_real_tracker_records_a_resumed_training(
    images: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in TELEMETRY_OFF.items():
        monkeypatch.setenv(variable, value)
    for steps in (2, 4):
        assert _train(images, tmp_path / "out", steps, name).finished
    if name == "wandb":
        assert len(list(tmp_path.glob("out/wandb/offline-run-*/run-*.wandb"))) == 2
        return
    file = "out/mlflow.db" if name == "mlflow" else "trackio/cmd-bench.db"
    with closing(sqlite3.connect(tmp_path / file)) as database:
        (count,) = database.execute("select count(distinct step) from metrics").fetchone()
    assert count == 4
