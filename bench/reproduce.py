"""Run the rows of a paper's table that can run here, and lay ours beside what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import board
from bench.api import Progress
from bench.beside import PAPER, SCORES, number
from bench.board import BoardOptions, Score
from bench.errors import BenchError, RunFailed
from bench.lint import suspect
from bench.published import PrintedCell
from bench.recipes import Attempt
from bench.record import Record
from bench.running import Places, execute
from bench.typeset import Cell, Sheet

DIFFERENCES = (
    f"Ours beside {PAPER} is no test of either. The paper gives no list of its test images: ours "
    "are the splits of `bench datasets`, official where there are any.",
    "Its labels may be others: in the release of CPM-15 two images are swapped against their "
    "masks, which ours mends.",
    "Its Dice and Precision are taken for the means over nuclei and background (dice_macro, "
    "precision_macro): few-shot values of 0.46 to 0.50 are what that gives to empty masks.",
    "It gives neither its batch size nor its seeds nor its number of support sets (ours: of each "
    "recipe, 0, and 5); weights and libraries are those of today.",
    "Its intervals are of 1,000 resamples, of images as it seems; ours resample patients, and for "
    "few shots support sets too; with fewer than 5 patients there is none, but {the mean of each}. "
    "? marks printed numbers in doubt (`bench lint-published`), and our intervals of fewer than 10 "
    "patients.",
)


@dataclass(frozen=True)
class Result:
    """What came of an attempt.

    Attributes:
        record: None where it did not run.
        scores: ours, by our name.
        failure: why it stopped; "" where it did not.
    """

    attempt: Attempt
    record: Record | None = None
    scores: tuple[Score, ...] = ()
    failure: str = ""


def run(attempts: Sequence[Attempt], places: Places, progress: Progress) -> list[Result]:
    """Run all that can run, one after the other; one that fails stops no other."""
    results = []
    able = [each for each in attempts if not each.obstacles]
    for done, attempt in enumerate(able):
        progress(f"{attempt.recipe.method} on {attempt.dataset}", done, len(able))
        results.append(_result(attempt, places, progress))
    progress("reproduce", len(able), len(able))
    by_attempt = dict(zip(map(id, able), results, strict=True))
    return [by_attempt.get(id(each), Result(each)) for each in attempts]


def _result(attempt: Attempt, places: Places, progress: Progress) -> Result:
    try:
        record = execute(attempt.request, places, progress).record
    except (BenchError, RunFailed) as error:
        return Result(attempt, failure=str(error))
    names = [SCORES[cell.score] for cell in attempt.cells]
    scores = board.scores(record, names, BoardOptions())
    return Result(attempt, record, tuple(scores.values()))


def plan_sheet(table: str, attempts: Sequence[Attempt]) -> Sheet:
    """List the runs of a table, a column for each data set, and below what is in the way."""
    datasets = list(dict.fromkeys(each.dataset for each in attempts))
    here: dict[tuple[str, str], dict[str, str]] = {}
    for each in attempts:
        own = here.setdefault((each.recipe.method, each.setting), {})
        own[each.dataset] = ", ".join(o.short for o in each.obstacles) or "can run"
    cures = dict.fromkeys(o.cure for each in attempts for o in each.obstacles)
    able = sum(not each.obstacles for each in attempts)
    return Sheet(
        title=f"Table {table} of {PAPER}: {able} of {len(attempts)} runs can run here",
        columns=["method", "setting", *datasets],
        rows=[
            [*map(Cell, key), *(Cell(own.get(name, "–")) for name in datasets)]
            for key, own in here.items()
        ],
        notes=[f"missing: {cure}" for cure in cures],
    )


def result_sheet(table: str, results: Sequence[Result]) -> Sheet:
    """Lay ours beside the paper's, a line for each run and score."""
    rows = [row for result in results for row in _rows(result)]
    return Sheet(
        title=f"Table {table} of {PAPER}, beside ours",
        columns=["method", "setting", "data set", "score", "ours", "paper", "remark"],
        rows=rows,
        notes=DIFFERENCES,
    )


def _rows(result: Result) -> list[list[Cell]]:
    attempt = result.attempt
    ours = dict(zip(attempt.cells, result.scores, strict=False))
    words = [attempt.recipe.method, attempt.setting, attempt.dataset]
    return [
        [
            *map(Cell, words),
            Cell(SCORES[cell.score]),
            _our_cell(ours.get(cell)),
            number(cell, {cell: suspect(cell)}),
            Cell(_remark(result)),
        ]
        for cell in attempt.cells
    ]


def _our_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell("–")
    bounds = score.summary.interval
    return Cell(
        value=score.summary.mean,
        low=bounds.low,
        high=bounds.high,
        parts=score.patient_means,
        mark="?" if bounds.note and bounds.low is not None else "",
    )


def _remark(result: Result) -> str:
    if result.failure:
        return f"failed: {result.failure}"
    if obstacles := result.attempt.obstacles:
        return f"not run: {', '.join(each.short for each in obstacles)}"
    flags = result.record.flags if result.record else ()
    return "; ".join([*flags, *result.attempt.notes])


def as_json(table: str, results: Sequence[Result]) -> dict[str, object]:
    """Give a table for machines."""
    return {
        "table": table,
        "paper": PAPER,
        "rows": [_row_json(result) for result in results],
        "differences": list(DIFFERENCES),
    }


def _row_json(result: Result) -> dict[str, object]:
    attempt = result.attempt
    ours = dict(zip(attempt.cells, result.scores, strict=False))
    return {
        "method": attempt.recipe.method,
        "setting": attempt.setting,
        "dataset": attempt.dataset,
        "command": attempt.command,
        "obstacles": [vars(each) for each in attempt.obstacles],
        "failure": result.failure,
        "run_id": result.record and result.record.run_id,
        "flags": list(result.record.flags) if result.record else [],
        "notes": list(attempt.notes),
        "scores": {
            SCORES[cell.score]: {"ours": _ours_json(ours.get(cell)), "paper": _paper_json(cell)}
            for cell in attempt.cells
        },
    }


def _ours_json(score: Score | None) -> dict[str, object] | None:
    return None if score is None else score.plain()


def _paper_json(cell: PrintedCell) -> dict[str, object]:
    own = cell.printed
    return {
        "mean": own.mean,
        "ci_low": own.low,
        "ci_high": own.high,
        "in_doubt": suspect(cell),
    }
