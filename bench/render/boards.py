"""Comparison groups of a leaderboard as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.api.board import WORSE, Block, ChanceRow, Row
from bench.api.record import Record
from bench.api.report import DASH, Cell, Column, Table, p_cell
from bench.render.runs import PARTS, named

RULE = (
    "decision: a row is tied with the best unless the adjusted p of its difference to the best row "
    "is below 0.05 (sign flips of the paired differences of patients, Holm over all pairs of the "
    "group; the intervals are not adjusted); bold: the best and the tied rows, if another is worse"
)


def board_table(block: Block) -> Table:
    """Build the table of a group: rows tied with the best in bold, chance baselines below."""
    first, *others = block.rows[0].scores
    columns: list[Column | str] = ["backbone", *block.rows[0].settings]
    head = "head weights" if "head" in block.key else "head (weights)"
    columns += [Column(head, keep=False), Column("input", keep=False), named(first)]
    columns += [f"minus {block.reference or 'the best'}", "p", "decision"]
    columns += [*(Column(named(name), keep=False) for name in others), "flags"]
    notes = [block.verdict.sentence] if block.verdict else []
    notes += block.notes
    if block.missing:
        notes.append(f"not run: {', '.join(block.missing)}")
    return Table(
        title=f"{block.title}: {size_of(block)}",
        columns=columns,
        rows=[_row(row, block) for row in block.rows],
        notes=notes,
        bold=frozenset(i for i, row in enumerate(block.rows) if is_bold(row, block)),
        below=[_chance_row(baseline, block) for baseline in block.chance],
        stacked=True,
    )


def file_table(block: Block) -> Table:
    """Build the table of a group for a file, with all notes and the legend below it."""
    table = board_table(block)
    return replace(table, notes=[*table.notes, *board_notes([block])])


def is_bold(row: Row, block: Block) -> bool:
    """Return whether a row is the best or tied with it, while another row of the group is worse."""
    decisions = [each.standing.decision for each in block.rows if each.standing]
    return WORSE in decisions and row.standing is not None and row.standing.decision != WORSE


def size_of(block: Block) -> str:
    """Return the number of images and patients of a group as text."""
    first = next(iter(block.rows[0].scores.values())).summary
    return f"{first.n_images} images of {first.n_patients} patients"


def board_notes(blocks: Sequence[Block]) -> list[str]:
    """Return the legend of several groups."""
    scores = [score for block in blocks for row in block.rows for score in row.scores.values()]
    notes = interval_notes([score.summary.interval.note for score in scores])
    notes += [f"intervals: {kind}" for kind in sorted({s.summary.interval.method for s in scores})]
    if any(score.patient_means for score in scores):
        notes.append(PARTS)
    if any(score.summary.spread is not None for score in scores):
        notes.append(
            "± standard deviation of the mean over draws of the support set, or over the seeds of "
            "an untrained control"
        )
    if any(row.standing for block in blocks for row in block.rows):
        notes.append(RULE)
    return notes


def interval_notes(notes: Sequence[str]) -> list[str]:
    """Return the different notes of intervals, with the mark that they explain."""
    different = sorted(set(notes) - {""})
    return [note if note.startswith("no interval") else f"? {note}" for note in different]


def difference_cells(row: Row) -> list[Cell | str]:
    """Return the difference of a row to the reference, its adjusted p value, and the decision."""
    standing = row.standing
    if standing is None:
        return ["", "", ""]
    difference = standing.difference
    cell = Cell.of(difference.mean, difference.interval) if difference else DASH
    return [cell, p_cell(standing.holm_p), standing.decision or DASH]


def input_text(record: Record) -> str:
    """Return the side of the input in pixels, with the view and the precision if unusual."""
    view, precision = record.spec.view, record.spec.precision
    words = [] if view.kind == "whole" else [view.kind]
    words += [str(view.px), *([] if precision == "fp32" else [precision])]
    return " ".join(words)


def _row(row: Row, block: Block) -> list[Cell | str]:
    first, *others = (Cell.of_score(score) for score in row.scores.values())
    weights = f"{row.record.facts['head_parameters']:,}"
    return [
        row.backbone,
        *row.settings.values(),
        weights if "head" in block.key else f"{row.head} ({weights})",
        input_text(row.record),
        first,
        *difference_cells(row),
        *others,
        ", ".join(row.flags),
    ]


def _chance_row(baseline: ChanceRow, block: Block) -> list[Cell | str]:
    first, *others = (Cell(baseline.means[name]) for name in block.rows[0].scores)
    settings = [""] * len(block.rows[0].settings)
    return [baseline.baseline, *settings, "", "", first, "", "", "", *others, ""]
