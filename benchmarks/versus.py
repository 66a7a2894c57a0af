"""Sides that are timed in turn, each in a process and an environment of its own.

A side is a script in `sides/` that gets its task as JSON, does it once and prints, as its last
line, JSON with what it measured. All sides take turns, forwards and then backwards (A B, B A), so
that a machine that is busy for a while favours none.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from bench.cli.console import out
from bench.errors import BenchError

HERE = Path(__file__).parent
Rivals = Annotated[
    Path, typer.Option(help="The folder of the rivals' environments: `rivals.sh FOLDER` makes it.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Default: a file of results/ beside this script.")
]


@dataclass(frozen=True)
class Side:
    """Something that is timed.

    Attributes:
        script: of `sides/`.
        environment: folder of its environment; None: this one.
        task: what it gets, besides what all sides get.
    """

    name: str
    script: str
    environment: Path | None
    task: Mapping[str, object] = field(default_factory=dict)

    def run(self, shared: Mapping[str, object], root: Path) -> dict[str, Any]:
        """Do the task once in an empty folder, and give what it printed last.

        Raises:
            BenchError: it stopped; with the end of what it said.
        """
        work = root / self.name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        python = sys.executable if self.environment is None else self.environment / "bin/python"
        command = [str(python), str(HERE / "sides" / self.script)]
        words = json.dumps({**shared, **self.task, "work": str(work)})
        done = subprocess.run([*command, words], capture_output=True, text=True, env=self._env())
        if done.returncode:
            raise BenchError(f"{self.name} stopped: {done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def _env(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        checkout = {"PYTHONPATH": str(HERE.parent)} if self.environment is None else {}
        return {**own, **checkout, "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}


def interleaved(
    sides: Sequence[Side], shared: Mapping[str, object], root: Path, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Run all sides in turn, forwards and then backwards: for each side what it told, in order."""
    told: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repeat in range(repeats):
        for side in sides[:: 1 if repeat % 2 == 0 else -1]:
            told[side.name].append(side.run(shared, root))
    return told


def median(runs: Sequence[Mapping[str, Any]], field: str) -> float:
    """Give the median over the repeats of a side."""
    return statistics.median(float(run[field]) for run in runs)


def machine() -> dict[str, object]:
    """Describe the machine: its CPU, cores, load and libraries."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    found = re.search(r"model name\s*: (.*)", told)
    return {
        "cpu": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table; all have the columns of the first."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_cell(each) for each in row.values()))
    out.print(table)


def keep(name: str, document: Mapping[str, object], to: Path | None = None) -> None:
    """Write a result as JSON, into `results/` beside the scripts where no file is named."""
    path = to or HERE / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    out.print(f"written: {path.name}", markup=False, highlight=False)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
