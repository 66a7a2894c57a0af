"""The trackers that can follow a pretraining beside the log: W&B, MLflow and Trackio.

They are told numbers alone: the scalars of each step, and settings that name no place. Pictures
show patients' tissue, and stay in the folder of the run. What W&B and MLflow keep lies in that
folder too, unless their own variables (`WANDB_MODE=online`, `MLFLOW_TRACKING_URI`) say otherwise.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bench.errors import BenchError
from bench.store import write_bytes

PROJECT = "cmd-bench"
FILE = "tracker.json"  # below --out: by tracker, the id under which a run goes on
SEND_S = 5  # between two batches for MLflow, whose every call may be one over a network
LARGEST = 1000  # numbers in a batch that MLflow takes
log = logging.getLogger(__name__)

Scalars = Mapping[str, float]


class Tracker(Protocol):
    """What follows a training from outside."""

    def add(self, scalars: Scalars, step: int) -> None:
        """Take the numbers of a step."""
        ...

    def close(self) -> None:
        """Send what is left, and end."""
        ...


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a run at its beginning.

    Attributes:
        id: of the run, the same when it goes on; empty: a tracker gives its own.
        name: for people.
        folder: where a tracker may keep what it has.
        facts: the settings that name no place.
    """

    id: str
    name: str
    folder: Path
    facts: Mapping[str, object]


class WandB:
    """Weights & Biases; offline unless WANDB_MODE says otherwise. `wandb sync` sends it later."""

    def __init__(self, run: Run) -> None:
        """Begin, or go on with, a run."""
        import wandb  # pyright: ignore[reportMissingImports]

        unsent = {"host": "", "program": "", "console": "off", "silent": True, "save_code": False}
        unsent |= {"disable_git": True, "disable_code": True, "x_save_requirements": False}
        unsent |= {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
        self.id = run.id or secrets.token_hex(4)
        self._run = wandb.init(
            project=PROJECT,
            id=self.id,
            name=None if run.id else run.name,
            config=dict(run.facts),
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=wandb.Settings(**unsent),
        )

    def add(self, scalars: Scalars, step: int) -> None:
        """Take the numbers of a step; those of a step that it has already, it drops."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


class MLflow:
    """MLflow: at MLFLOW_TRACKING_URI, or else in a file `mlflow.db` of the run."""

    def __init__(self, run: Run) -> None:
        """Begin, or go on with, a run."""
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._metric = Metric
        here = f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", here))
        if run.id:
            self.id = self._client.get_run(run.id).info.run_id
            self._client.update_run(self.id, "RUNNING")
        else:
            found = self._client.get_experiment_by_name(PROJECT)
            of = found.experiment_id if found else self._client.create_experiment(PROJECT)
            self.id = self._client.create_run(of, run_name=run.name).info.run_id
            facts = [Param(name, str(value)) for name, value in run.facts.items()]
            self._client.log_batch(self.id, params=facts)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def add(self, scalars: Scalars, step: int) -> None:
        """Take the numbers of a step; some seconds of them are sent together."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, each, now, step) for name, each in scalars.items()]
        if time.monotonic() - self._sent > SEND_S:
            self._send()

    def close(self) -> None:
        """Send what is left, and note that the run has ended."""
        self._send()
        self._client.set_terminated(self.id)

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:LARGEST])
            del self._waiting[:LARGEST]
        self._sent = time.monotonic()


class Trackio:
    """Trackio: on this machine, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says.

    It prints on standard output, which is for the result of the command.
    """

    def __init__(self, run: Run) -> None:
        """Begin, or go on with, a run."""
        import trackio  # pyright: ignore[reportMissingImports]

        self.id = run.id or run.name  # it knows a run by its name
        silent = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(io.StringIO()):
            own = trackio.init(
                PROJECT, name=self.id, config=dict(run.facts), resume="allow", **silent
            )
        self._log, self._end = own.log, trackio.finish

    def add(self, scalars: Scalars, step: int) -> None:
        """Take the numbers of a step."""
        self._log(dict(scalars), step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(io.StringIO()):
            self._end()


class Guarded:
    """A tracker that may fail while the training goes on: what it loses is in the log."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        """Follow with this tracker until it fails."""
        self.name, self._tracker = name, tracker
        self.is_lost = False

    def add(self, scalars: Scalars, step: int) -> None:
        """Pass the numbers on; where that fails, warn once and pass on no more."""
        if not self.is_lost:
            try:
                self._tracker.add(scalars, step)
            except Exception as error:
                self._give_up(f"at step {step}", error)

    def close(self) -> None:
        """End the tracker, also one that is lost."""
        try:
            self._tracker.close()
        except Exception as error:
            if not self.is_lost:
                self._give_up("at the end", error)

    def _give_up(self, when: str, error: Exception) -> None:
        self.is_lost = True
        log.warning(
            "--track %s failed %s (%s: %s). The training goes on, and log.csv has every step.",
            *(self.name, when, type(error).__name__, error),
        )


UNSENT = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # to their makers
TRACKERS = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def refuse_unless_installed(name: str) -> None:
    """Raise a BenchError where the package of a tracker is missing."""
    if find_spec(name) is None:
        raise BenchError(f"--track {name} needs its package: `pip install {name}`.")


def follow(name: str, out: Path, facts: Mapping[str, object]) -> Guarded:
    """Begin to follow a training; one that goes on keeps its run at the tracker.

    Args:
        out: the folder of the training.
        facts: what the tracker is told of it.

    Raises:
        BenchError: the package is missing, or the tracker cannot begin.
    """
    refuse_unless_installed(name)
    ids = _read(out / FILE)
    title = f"{facts['backbone']}-{secrets.token_hex(3)}"
    for variable, usual in UNSENT.items():  # read when the packages are imported
        os.environ.setdefault(variable, usual)
    try:
        tracker = TRACKERS[name](Run(ids.get(name, ""), title, out.resolve(), facts))
    except Exception as error:
        raise BenchError(
            f"--track {name} cannot begin ({type(error).__name__}: {error}). Mend that, or leave "
            f"--track out; without {out / FILE} it begins a new run."
        ) from error
    write_bytes(out / FILE, json.dumps(ids | {name: tracker.id}).encode())
    return Guarded(name, tracker)


def _read(path: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        return {str(name): str(own) for name, own in json.loads(path.read_text()).items()}
    return {}
