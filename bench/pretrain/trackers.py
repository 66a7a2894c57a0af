"""Experiment trackers that follow a pretraining run: W&B, Trackio and MLflow.

A tracker receives the scalars of each step and the settings, but no path and no image, because
these may identify patients. W&B and MLflow write into the output folder unless `WANDB_MODE=online`
or `MLFLOW_TRACKING_URI` is set.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.store.files import write_bytes

PROJECT = "cmd-bench"
FILE = "tracker.json"  # in the output folder: the run id of each tracker
SEND_S = 5  # between two batches for MLflow, where a call may go over the network
LARGEST_BATCH = 1000  # metrics that MLflow accepts at once
TELEMETRY_OFF = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
WANDB_OFF = {"host": "", "program": "", "console": "off", "silent": True, "save_code": False}
WANDB_OFF |= {"disable_git": True, "disable_code": True, "x_save_requirements": False}
WANDB_OFF |= {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
log = logging.getLogger(__name__)

Scalars = Mapping[str, float]
Config = Mapping[str, object]


class WandB:
    """Weights & Biases; offline unless WANDB_MODE is set. `wandb sync` uploads an offline run."""

    package = "wandb"

    def __init__(self, run_id: str, title: str, folder: Path, config: Config) -> None:
        """Start a run, or resume it if `run_id` is not empty."""
        self._module: Any = import_module(self.package)
        self.id, options = self._options(run_id, title, folder)
        with redirect_stdout(io.StringIO()):  # standard output is for the command's result
            self._run = self._module.init(
                project=PROJECT, config=dict(config), resume="allow", **options
            )

    def _options(self, run_id: str, title: str, folder: Path) -> tuple[str, dict[str, Any]]:
        """Return the run's id and the arguments of `init` that only this package has."""
        name = None if run_id else title
        run_id = run_id or secrets.token_hex(4)
        mode = os.environ.get("WANDB_MODE", "offline")
        settings = self._module.Settings(**WANDB_OFF)
        options = {"name": name, "dir": str(folder), "mode": mode, "settings": settings}
        return run_id, options | {"id": run_id}

    def log(self, scalars: Scalars, step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def finish(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._module.finish()


class Trackio(WandB):
    """Trackio, which has W&B's interface; local unless TRACKIO_SPACE_ID or similar is set."""

    package = "trackio"

    def _options(self, run_id: str, title: str, folder: Path) -> tuple[str, dict[str, Any]]:
        name = run_id or title  # Trackio identifies a run by its name
        return name, {"name": name, "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI or in the file `mlflow.db` of the output folder."""

    def __init__(self, run_id: str, title: str, folder: Path, config: Config) -> None:
        """Start a run, or resume it if `run_id` is not empty."""
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        self._client, self._metric = MlflowClient(tracking_uri=uri), Metric
        if run_id:
            self.id = self._client.get_run(run_id).info.run_id
            self._client.update_run(self.id, "RUNNING")
        else:
            experiment = self._client.get_experiment_by_name(PROJECT)
            if experiment is None:
                experiment_id = self._client.create_experiment(PROJECT)
            else:
                experiment_id = experiment.experiment_id
            self.id = self._client.create_run(experiment_id, run_name=title).info.run_id
            params = [Param(name, str(value)) for name, value in config.items()]
            self._client.log_batch(self.id, params=params)
        self._buffer: list[Any] = []
        self._sent = time.monotonic()

    def log(self, scalars: Scalars, step: int) -> None:
        now_ms = int(time.time() * 1000)
        self._buffer += [self._metric(*scalar, now_ms, step) for scalar in scalars.items()]
        if time.monotonic() - self._sent > SEND_S:
            self._send()

    def finish(self) -> None:
        self._send()
        self._client.set_terminated(self.id)

    def _send(self) -> None:
        while self._buffer:
            self._client.log_batch(self.id, metrics=self._buffer[:LARGEST_BATCH])
            del self._buffer[:LARGEST_BATCH]
        self._sent = time.monotonic()


TRACKERS = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


class Tracker:
    """A tracker's run that cannot stop the training: its first failure is logged as a warning."""

    def __init__(self, name: str, run: WandB | MLflow) -> None:
        self._name, self._run, self._failed = name, run, False

    def log(self, scalars: Scalars, step: int) -> None:
        """Report the scalars of a step, unless the tracker has failed before."""
        if not self._failed:
            with self._warn_on_failure(f"at step {step}"):
                self._run.log(scalars, step)

    def finish(self) -> None:
        """Send what is buffered and end the run."""
        with self._warn_on_failure("at the end"):
            self._run.finish()

    @contextmanager
    def _warn_on_failure(self, when: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                log.warning(
                    f"--track {self._name} failed {when} ({type(error).__name__}: {error}). "
                    "Training continues without it, and log.csv has every step."
                )
            self._failed = True


def require_package(name: str) -> None:
    """Raise a BenchError if the package of a tracker is not installed."""
    if find_spec(name) is None:
        raise BenchError(f"--track {name} needs a package: run `pip install {name}`.")


def start(name: str, out: Path, config: Config) -> Tracker:
    """Start a tracker's run, or resume the one of the output folder.

    Args:
        name: a key of `TRACKERS`.
        out: the output folder.
        config: the settings to report, without paths.

    Raises:
        BenchError: the package is missing, or the tracker cannot start.
    """
    require_package(name)
    ids: dict[str, str] = {}
    with suppress(OSError, ValueError):
        ids = json.loads((out / FILE).read_text())
    for variable, value in TELEMETRY_OFF.items():  # the packages read these on import
        os.environ.setdefault(variable, value)
    title = f"{config['backbone']}-{secrets.token_hex(3)}"
    try:
        run = TRACKERS[name](ids.get(name, ""), title, out.resolve(), config)
    except Exception as error:
        raise BenchError(
            f"--track {name} cannot start ({type(error).__name__}: {error}). Fix that, or omit "
            f"--track; delete {out / FILE} to start a new run at the tracker."
        ) from error
    write_bytes(out / FILE, json.dumps(ids | {name: run.id}).encode())
    return Tracker(name, run)
