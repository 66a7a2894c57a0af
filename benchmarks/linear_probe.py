"""The converged linear probe and the paper's recipe: scores, time, and stability of the order.

    python benchmarks/linear_probe.py --data DIR --results OUT --checkpoint dinov2-s=FILE

Runs that are stored in OUT are not repeated; their CPU seconds are in OUT/seconds.json. Every image
is scored once, by five folds. The order of the backbones in one half of the patients is compared
with that in the other half by Kendall's tau, over random halves.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from versus import show

from bench.api import Progress, Record, Trial
from bench.api.nn import Head
from bench.api.run_config import RunConfig
from bench.board.scores import difference, scores_of_images
from bench.runs.execute import Paths, execute
from bench.runs.trials import TrialRunner
from bench.stats.rank_correlation import kendall

BACKBONES = (
    "rgb,random-vit-s,dinov2-s,cmd-tiny,cmd-tiny@random:0,cmd-tiny@random:1,cmd-tiny@random:2"
)
DATASETS = "cpm15,kumar,tnbc"
RECIPES = ("paper", "default")
HALVES = 1000


class TimedTrialRunner(TrialRunner):
    """Counts the CPU seconds of training, without features and scoring."""

    seconds_of_training = 0.0

    def _fit(self, head: Head, trial: Trial, progress: Progress):
        began = time.process_time()
        try:
            return super()._fit(head, trial, progress)
        finally:
            TimedTrialRunner.seconds_of_training += time.process_time() - began


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    results: Annotated[Path, typer.Option(help="Folder of the runs.")],
    backbones: str = BACKBONES,
    datasets: str = DATASETS,
    checkpoint: Annotated[list[str] | None, typer.Option(help="NAME=FILE of weights.")] = None,
    run: Annotated[bool, typer.Option(help="Run what is not stored.")] = True,
) -> None:
    """Run what is missing, and show the table and the stability of the order."""
    import bench.runs.execute

    bench.runs.execute.TrialRunner = TimedTrialRunner
    files = dict(pair.split("=", 1) for pair in checkpoint or [])
    records: dict[tuple[str, str, str], Record] = {}
    seconds = _read(results / "seconds.json")
    for dataset in datasets.split(","):
        for recipe in RECIPES:
            for name in backbones.split(","):
                file = Path(files[name]) if name in files else None
                config = RunConfig(
                    name, dataset, folds=5, view="whole", checkpoint=file, recipe=recipe
                )
                key = f"{name} {dataset} {recipe}"
                if not run and key not in seconds:
                    continue
                TimedTrialRunner.seconds_of_training = 0.0
                outcome = execute(config, Paths(results, data, results / "cache"), lambda *_: None)
                records[name, dataset, recipe] = outcome.record
                if not outcome.cached:
                    seconds[key] = round(TimedTrialRunner.seconds_of_training, 1)
                    (results / "seconds.json").write_text(json.dumps(seconds))
    show("Five folds: paper's recipe and converged", _table(records, seconds))
    show(f"Kendall's tau of two halves of the patients, {HALVES} halves", _stability(records))


def _read(path: Path) -> dict[str, float]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _table(
    records: dict[tuple[str, str, str], Record], seconds: dict[str, float]
) -> list[dict[str, object]]:
    rows = []
    for (name, dataset, recipe), paper in records.items():
        converged = records.get((name, dataset, "default"))
        if recipe != "paper" or converged is None:
            continue
        change = difference(converged, paper, "dice")
        row: dict[str, object] = {"data set": dataset, "backbone": name}
        for word, record in (("paper", paper), ("converged", converged)):
            for score in ("dice", "ap"):
                row[f"{score}, {word}"] = round(float(scores_of_images(record, score).mean()), 3)
        low, high = change.interval.low, change.interval.high
        row["dice, converged - paper"] = f"{change.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        row["p"] = change.p
        for word in RECIPES:
            row[f"CPU s, {word}"] = seconds.get(f"{name} {dataset} {word}")
        rows.append(row)
    return rows


def _stability(records: dict[tuple[str, str, str], Record]) -> list[dict[str, object]]:
    """Return Kendall's tau between random halves of the patients, by data set and score."""
    rows = []
    for dataset in dict.fromkeys(dataset for _, dataset, _ in records):
        names = [
            name
            for name in dict.fromkeys(name for name, of, _ in records if of == dataset)
            if all((name, dataset, recipe) in records for recipe in RECIPES)
        ]
        if len(names) < 3:
            continue
        first = records[names[0], dataset, "paper"]
        patients = np.array([first.patients[image] for image in first.images])
        unique, rng = np.unique(patients), np.random.default_rng(0)
        halves = np.stack(
            [np.isin(patients, rng.permutation(unique)[: len(unique) // 2]) for _ in range(HALVES)],
            axis=1,
        )  # (n, B)
        for score in ("dice", "ap"):
            row: dict[str, object] = {"data set": dataset, "score": score, "backbones": len(names)}
            taus = {}
            for recipe in RECIPES:
                runs = [records[name, dataset, recipe] for name in names]
                values = np.stack([scores_of_images(run, score).mean(0) for run in runs])  # (m, n)
                means = [values @ half / half.sum(0) for half in (halves, ~halves)]  # (m, B) each
                taus[recipe] = kendall(*means)
                row[recipe] = _spread(taus[recipe], "")
            row["default - paper"] = _spread(taus["default"] - taus["paper"], "+")
            rows.append(row)
    return rows


def _spread(values: np.ndarray, sign: str) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{values.mean():{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    typer.run(main)
