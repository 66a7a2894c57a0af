"""How long the statistics of a whole board take: 40 models, 10 scores, 10,000 resamples.

    python benchmarks/board.py

Intervals of every mean, tiers by paired tests and intervals of ranks for one score, all over one
set of images; simulated scores, each patient with three images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import typer
from intervals import names, normal, scores
from versus import Out, keep, machine, show

from bench.api import board
from bench.stats import bootstrap, tiers


def timed(work: Callable[[], object], repeats: int) -> float:
    """Give the median seconds of some runs, each with nothing remembered of the one before."""
    seconds = []
    for _ in range(repeats):
        bootstrap.drawn.cache_clear()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def works(models: int, metrics: int, patients: int) -> Sequence[tuple[str, Callable[[], object]]]:
    """Give what a board computes, by name."""
    values = scores(normal, models * metrics, patients, seed=0)
    own = names(patients)

    def intervals(method: str) -> Callable[[], object]:
        return lambda: bootstrap.intervals(values, own, method=method, seed_text="board")

    contest = tiers.ScoreMatrix(values[:models], own, "board")
    return [
        ("intervals, expanded", intervals("expanded")),
        ("intervals, bca", intervals("bca")),
        ("pairwise tests", lambda: tiers.pairwise_p(contest)),
        ("intervals of ranks", lambda: tiers.rank_intervals(contest, resamples=board.RESAMPLES)),
    ]


def main(
    models: Annotated[int, typer.Option(min=2)] = 40,
    metrics: Annotated[int, typer.Option(min=1)] = 10,
    patients: Annotated[int, typer.Option(min=6)] = 30,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    to: Out = None,
) -> None:
    """Time each part, and tell the medians."""
    before = machine()
    rows = [
        {"part": name, "s": timed(work, repeats)} for name, work in works(models, metrics, patients)
    ]
    rows.append({"part": "all", "s": float(np.sum([row["s"] for row in rows]))})
    show(f"{models} models, {metrics} scores, {patients} patients, 10,000 resamples", rows)
    asked = {"models": models, "metrics": metrics, "patients": patients, "repeats": repeats}
    keep("board", {"asked": asked, "machine": before, "rows": rows}, to)


if __name__ == "__main__":
    typer.run(main)
