"""Rank a comparison group: differences to the best row, decisions, chance level and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.api.board import Block, BoardOptions, ChanceRow, Row, Score
from bench.api.record import Record
from bench.board import chance as board_chance
from bench.board.scores import (
    holds,
    lower_is_better,
    metric_of,
    names,
    score_all,
    scores_of_images,
)
from bench.errors import BenchError
from bench.stats import bootstrap, decisions


def rank_block(block: Block, options: BoardOptions) -> Block:
    """Return the group with the statistics of its rows, chance baselines, verdict and notes.

    Tests resample patients, whatever interval method `options.ci` selects.

    Args:
        block: rows sorted best first by `options.metric`, all scored on the same images.
    """
    matrix = score_matrix([row.record for row in block.rows], options.metric)
    adjusted = decisions.pairwise_p(matrix)
    reference = _reference(block.rows, options)
    standings = decisions.standings(matrix, adjusted, reference)
    marks = _chance_marks(block.rows, options)
    rows = [
        replace(row, standing=standing, marks=row_marks)
        for row, standing, row_marks in zip(block.rows, standings, marks, strict=True)
    ]
    is_control = [row.record.is_untrained_control for row in rows]
    return replace(
        block,
        rows=rows,
        chance=chance_rows(rows[0].record, list(rows[0].scores)),
        reference="" if reference is None else rows[reference].backbone,
        verdict=decisions.separability(matrix, adjusted, is_control),
        notes=tuple(_notes(rows, options, reference)),
    )


def score_runs(
    records: Sequence[Record], names: Sequence[str], options: BoardOptions
) -> tuple[Sequence[Record], dict[str, list[Score]]]:
    """Compute scores of runs on the same images; leave out runs without counts for a score."""
    try:
        return records, {name: score_all(records, name, options) for name in names}
    except BenchError:
        records = [record for record in records if all(holds(record, name) for name in names)]
        return records, {name: score_all(records, name, options) for name in names}


def score_matrix(records: Sequence[Record], name: str) -> decisions.ScoreMatrix:
    """Collect one score of runs on the same images, averaged over few-shot draws and seeds."""
    first = records[0]
    assert all(record.images == first.images for record in records)
    return decisions.ScoreMatrix(
        values=np.stack([scores_of_images(record, name).mean(axis=0) for record in records]),
        patients=[first.patients[image] for image in first.images],
        seed_text=bootstrap.shared_seed(first.spec.scored.sha256, first.images),
        lower_is_better=lower_is_better(name),
    )


def rank_intervals(block: Block, options: BoardOptions) -> list[tuple[int, int]] | None:
    """Return the 95 % interval of the rank of each row; None below five patients."""
    matrix = score_matrix([row.record for row in block.rows], options.metric)
    bounds = decisions.rank_intervals(matrix, resamples=options.resamples)
    return None if bounds is None else [(low, high) for low, high in bounds.tolist()]


def chance_rows(record: Record, names: Sequence[str]) -> list[ChanceRow]:
    """Return the chance baselines on the images of a run; empty without pixel counts."""
    pixels = board_chance.true_pixels(record)
    if pixels is None:
        return []
    return [
        ChanceRow(baseline, {name: _chance_mean(baseline, name, *pixels) for name in names})
        for baseline in board_chance.BASELINES
    ]


def _chance_mean(
    baseline: str, name: str, foreground: np.ndarray, background: np.ndarray
) -> float | None:
    counts = board_chance.baseline_counts(baseline, foreground, background)
    values = board_chance.baseline_scores(metric_of(name), name, counts)
    return None if values is None else float(values.mean())


def _chance_marks(rows: Sequence[Row], options: BoardOptions) -> list[tuple[str, ...]]:
    """Return the marks of each row that is not above chance level, with the score's name."""
    pixels = next(filter(None, (board_chance.true_pixels(row.record) for row in rows)), None)
    if pixels is None:
        return [()] * len(rows)
    chance_levels = {
        "dice_macro": _chance_mean(board_chance.ALL_BACKGROUND, "dice_macro", *pixels),
        "precision_macro": board_chance.CHANCE_PRECISION_MACRO,
    }
    marks: list[list[str]] = [[] for _ in rows]
    for name, chance in chance_levels.items():
        if chance is None:
            continue
        column = _column(rows, name, options)
        for row_marks, row in zip(marks, rows, strict=True):
            score = column.get(row.record.run_id)
            if score and (comparison := board_chance.compared_with(score.summary, chance)):
                row_marks.append(f"{comparison} ({name})")
    return [tuple(row_marks) for row_marks in marks]


def _column(rows: Sequence[Row], name: str, options: BoardOptions) -> dict[str, Score]:
    """Return a score by run id, computing it if the rows do not show it."""
    if all(name in row.scores for row in rows):
        return {row.record.run_id: row.scores[name] for row in rows}
    records, columns = score_runs([row.record for row in rows], [name], options)
    return {record.run_id: score for record, score in zip(records, columns[name], strict=True)}


def _reference(rows: Sequence[Row], options: BoardOptions) -> int | None:
    """Return the index of the best row of the reference; None if there is none: the best row."""
    for kind in (0, 1):
        for i, row in enumerate(rows):
            if any(options.reference in names(run)[kind] for run in (row.record, *row.runs)):
                return i
    return None


def _notes(rows: Sequence[Row], options: BoardOptions, reference: int | None) -> list[str]:
    notes = []
    if options.reference is not None and reference is None:
        notes.append(f"no row of the reference {options.reference}: differences to the best row")
    if any(trial.draw for trial in rows[0].runs[0].trials):
        notes.append(
            "differences use scores averaged over draws: they are conditional on these support sets"
        )
    return notes
