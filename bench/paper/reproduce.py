"""Run the rows of a paper's table where possible, and compare them with the printed scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.api import Progress
from bench.api.board import BoardOptions, Score
from bench.api.record import Record
from bench.api.report import DASH, Cell, Table
from bench.board import scores as board_scores
from bench.errors import BenchError, RunFailed
from bench.paper.lint import suspect
from bench.paper.printed_rows import PAPER, SCORES, cell_json, number
from bench.paper.recipes import Attempt
from bench.runs.execute import Paths, execute

DIFFERENCES = (
    f"Our scores and those of {PAPER} are not directly comparable. The paper does not list its "
    "test images: ours are the splits of `bench datasets`, official where they exist.",
    "Its labels may differ: the release of CPM-15 swaps two images and their masks, which we "
    "correct.",
    "We take its Dice and Precision for the means over nuclei and background (dice_macro, "
    "precision_macro): an empty mask then scores 0.46 to 0.50, as some few-shot rows do.",
    "It does not state its batch size, seeds or number of support sets (ours: from the recipe, 0 "
    "and 5); our weights and library versions are the current ones.",
    "Its intervals use 1,000 resamples, apparently of images; ours resample patients, and for few "
    "shots also support sets. With fewer than 5 patients we show {the mean of each patient} "
    "instead. ? marks doubtful printed numbers (`bench lint-published`) and our intervals of fewer "
    "than 10 patients.",
)


@dataclass(frozen=True)
class ReproducedRun:
    """The outcome of an attempt.

    Attributes:
        record: None if the attempt did not run.
        scores: our scores, one per printed cell of the attempt.
        failure: why the run failed; "" if it did not.
    """

    attempt: Attempt
    record: Record | None = None
    scores: tuple[Score, ...] = ()
    failure: str = ""


def run(attempts: Sequence[Attempt], paths: Paths, progress: Progress) -> list[ReproducedRun]:
    """Run all attempts without obstacles in order; a failed run does not stop the others."""
    n_runs = sum(not attempt.obstacles for attempt in attempts)
    results: list[ReproducedRun] = []
    done = 0
    for attempt in attempts:
        if attempt.obstacles:
            results.append(ReproducedRun(attempt))
            continue
        progress(f"{attempt.recipe.method} on {attempt.dataset}", done, n_runs)
        results.append(_run_attempt(attempt, paths, progress))
        done += 1
    progress("reproduce", n_runs, n_runs)
    return results


def _run_attempt(attempt: Attempt, paths: Paths, progress: Progress) -> ReproducedRun:
    try:
        record = execute(attempt.request, paths, progress).record
    except (BenchError, RunFailed) as error:
        return ReproducedRun(attempt, failure=str(error))
    names = [SCORES[cell.score] for cell in attempt.cells]
    scores = board_scores.scores(record, names, BoardOptions())
    return ReproducedRun(attempt, record, tuple(scores.values()))


def plan_table(table: str, attempts: Sequence[Attempt]) -> Table:
    """Build a table of the planned runs: one column per data set, obstacles as notes."""
    datasets = list(dict.fromkeys(attempt.dataset for attempt in attempts))
    states: dict[tuple[str, str], dict[str, str]] = {}
    for attempt in attempts:
        row = states.setdefault((attempt.recipe.method, attempt.setting), {})
        obstacles = ", ".join(obstacle.short for obstacle in attempt.obstacles)
        row[attempt.dataset] = obstacles or "can run"
    fixes = dict.fromkeys(obstacle.fix for attempt in attempts for obstacle in attempt.obstacles)
    n_runs = sum(not attempt.obstacles for attempt in attempts)
    return Table(
        title=f"Table {table} of {PAPER}: {n_runs} of {len(attempts)} runs can run here",
        columns=["method", "setting", *datasets],
        rows=[[*key, *(row.get(name, DASH) for name in datasets)] for key, row in states.items()],
        notes=[f"missing: {fix}" for fix in fixes],
    )


def result_table(table: str, results: Sequence[ReproducedRun]) -> Table:
    """Build a table of our scores and the paper's, one row per run and score."""
    rows = [row for result in results for row in _rows(result)]
    return Table(
        title=f"Table {table} of {PAPER}, and our scores",
        columns=["method", "setting", "data set", "score", "ours", "paper", "remark"],
        rows=rows,
        notes=DIFFERENCES,
    )


def _rows(result: ReproducedRun) -> list[list[Cell | str]]:
    attempt = result.attempt
    ours = dict(zip(attempt.cells, result.scores, strict=False))
    labels = [attempt.recipe.method, attempt.setting, attempt.dataset]
    return [
        [
            *labels,
            SCORES[cell.score],
            Cell.of_score(ours[cell]) if cell in ours else DASH,
            number(cell, {cell: suspect(cell)}),
            _remark(result),
        ]
        for cell in attempt.cells
    ]


def _remark(result: ReproducedRun) -> str:
    if result.failure:
        return f"failed: {result.failure}"
    if obstacles := result.attempt.obstacles:
        return f"not run: {', '.join(obstacle.short for obstacle in obstacles)}"
    flags = result.record.flags if result.record else ()
    return "; ".join([*flags, *result.attempt.notes])


def as_json(table: str, results: Sequence[ReproducedRun]) -> dict[str, object]:
    """Return the results of a table as JSON-serialisable values."""
    return {
        "table": table,
        "paper": PAPER,
        "rows": [_row_json(result) for result in results],
        "differences": list(DIFFERENCES),
    }


def _row_json(result: ReproducedRun) -> dict[str, object]:
    attempt = result.attempt
    ours = dict(zip(attempt.cells, result.scores, strict=False))
    return {
        "method": attempt.recipe.method,
        "setting": attempt.setting,
        "dataset": attempt.dataset,
        "command": attempt.command,
        "obstacles": [vars(obstacle) for obstacle in attempt.obstacles],
        "failure": result.failure,
        "run_id": result.record and result.record.run_id,
        "flags": list(result.record.flags) if result.record else [],
        "notes": list(attempt.notes),
        "scores": {
            SCORES[cell.score]: {
                "ours": ours[cell].plain() if cell in ours else None,
                "paper": cell_json(cell),
            }
            for cell in attempt.cells
        },
    }
