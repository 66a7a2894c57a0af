"""Run competitors alternately, each in its own process and environment, and report the results.

The script of a competitor in `sides/` receives its task as JSON, runs it once and prints its
measurements as JSON on the last line. The order alternates (A B, B A), so that a machine that is
busy for a while favours none.
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
from collections.abc import Iterator, Mapping, Sequence
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
    Path, typer.Option(help="Folder of the other packages' environments, from `rivals.sh FOLDER`.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="JSON file; by default in results/ next to the script.")
]


@dataclass(frozen=True)
class Side:
    """A competitor.

    Attributes:
        script: file in `sides/`.
        environment: folder of its environment; None for this one.
        task: its task, in addition to what all competitors receive.
    """

    name: str
    script: str
    environment: Path | None
    task: Mapping[str, object] = field(default_factory=dict)

    def run(self, shared: Mapping[str, object], root: Path) -> dict[str, Any]:
        """Run the task once in an empty folder, and return the measurements.

        Raises:
            BenchError: the script failed.
        """
        work = root / self.name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        python = sys.executable if self.environment is None else self.environment / "bin/python"
        task = json.dumps({**shared, **self.task, "work": str(work)})
        command = [str(python), str(HERE / "sides" / self.script), task]
        env = os.environ | {"WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
        env["PYTHONPATH"] = str(HERE.parent) if self.environment is None else ""
        result = subprocess.run(command, capture_output=True, text=True, env=env)
        if result.returncode:
            raise BenchError(f"{self.name} failed: {result.stderr[-2000:]}")
        return json.loads(result.stdout.strip().splitlines()[-1])


def interleaved(names: Sequence[str], repeats: int) -> Iterator[str]:
    """Yield the names `repeats` times, forwards and backwards in turn."""
    for repeat in range(repeats):
        yield from names[:: 1 if repeat % 2 == 0 else -1]


def run_all(
    sides: Sequence[Side], shared: Mapping[str, object], root: Path, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Run all competitors alternately, and return the measurements of each in order."""
    by_name = {side.name: side for side in sides}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
    for name in interleaved(list(by_name), repeats):
        runs[name].append(by_name[name].run(shared, root))
    return runs


def median(runs: Sequence[Mapping[str, Any]], field: str) -> float:
    """Return the median of a measurement over the repeats."""
    return statistics.median(float(run[field]) for run in runs)


def machine() -> dict[str, object]:
    """Describe the machine: its CPU, cores, load and libraries."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows, which have the same keys, as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    out.print(table)


def save(name: str, document: Mapping[str, object], path: Path | None) -> None:
    """Write a result as JSON, by default to `results/NAME.json` next to the scripts."""
    path = path or HERE / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    out.print(f"written: {path.name}", markup=False, highlight=False)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
