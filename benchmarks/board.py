"""How long the statistics of a leaderboard take: 40 models, 10 scores, 10,000 resamples.

    python benchmarks/board.py

Intervals of all means, paired tests and intervals of ranks for one score, on simulated scores of
30 patients with three images each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import typer
from intervals import normal, patients_of, scores
from versus import Out, machine, save, show

from bench.api import board
from bench.stats import bootstrap, decisions

MODELS, METRICS, PATIENTS = 40, 10, 30


def main(
    repeats: Annotated[int, typer.Option(help="Runs of each part.")] = 5, to: Out = None
) -> None:
    """Time each part, and show the medians."""
    before = machine()
    values, patients = scores(normal, MODELS * METRICS, PATIENTS, seed=0), patients_of(PATIENTS)
    matrix = decisions.ScoreMatrix(values[:MODELS], patients, "board")

    def intervals(method: str) -> Callable[[], object]:
        return lambda: bootstrap.intervals(values, patients, method=method, seed_text="board")

    works: dict[str, Callable[[], object]] = {
        "intervals, expanded": intervals("expanded"),
        "intervals, bca": intervals("bca"),
        "pairwise tests": lambda: decisions.pairwise_p(matrix),
        "intervals of ranks": lambda: decisions.rank_intervals(matrix, resamples=board.RESAMPLES),
    }
    seconds = {name: timed(work, repeats) for name, work in works.items()}
    seconds["all"] = sum(seconds.values())
    rows = [{"part": name, "s": value} for name, value in seconds.items()]
    show(f"{MODELS} models, {METRICS} scores, {PATIENTS} patients, 10,000 resamples", rows)
    save("board", {"machine": before, "rows": rows}, to)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of some runs without cached resamples."""
    seconds = []
    for _ in range(repeats):
        bootstrap.drawn.cache_clear()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    typer.run(main)
