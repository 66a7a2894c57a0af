"""Comparison groups of a leaderboard as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.api.board import Block, ChanceRow, Row, Standing
from bench.api.record import Record
from bench.api.report import DASH, Cell, Column, Table
from bench.board.scores import recipe
from bench.render.runs import PARTS, named


def board_table(block: Block) -> Table:
    """Build the table of a group: the top tier in bold, chance baselines below a rule."""
    first, *others = block.rows[0].scores
    columns: list[Column | str] = ["tier", "rank", "backbone"]
    if block.rows[0].protocol:
        columns.append("protocol")
    columns += [Column("head (weights)", keep=False), Column("input", keep=False), named(first)]
    if block.reference_asked:
        columns.append(f"minus {block.reference}")
    columns += [*(Column(named(name), keep=False) for name in others), "flags"]
    top = [row.standing is not None and row.standing.top for row in block.rows]
    notes = [block.verdict.sentence] if block.verdict else []
    notes += block.notes
    if block.missing:
        notes.append(f"not run: {', '.join(block.missing)}")
    return Table(
        title=f"{block.title}: {size_of(block)}",
        columns=columns,
        rows=[_row(row, block) for row in block.rows],
        notes=notes,
        bold=frozenset(i for i, is_top in enumerate(top) if is_top),
        below=[_chance_row(baseline, block) for baseline in block.chance],
        stacked=True,
    )


def file_table(block: Block) -> Table:
    """Build the table of a group for a file, with all notes and the legend below it."""
    table = board_table(block)
    tied = [row.backbone for row in block.rows if row.standing and row.standing.top]
    notes = [f"tied, not separable from the best: {', '.join(tied)}"] if len(tied) > 1 else []
    return replace(table, notes=[*table.notes, *notes, *board_notes([block])])


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
        notes.append("± standard deviation of the mean over draws of the support set")
    standings = [row.standing for block in blocks for row in block.rows if row.standing]
    if any(standing.group_letters for standing in standings):
        notes.append(
            "tier: rows of a block that share a letter are not separable (sign flips of the paired "
            "differences of patients, Holm over all pairs, 5 %); bold: the best row and those not "
            "separable from it"
        )
    if not all(standing.group_letters for standing in standings):
        notes.append("tier –: no pair of the block is separable; no letters, and nothing is bold")
    if standings:
        notes.append("rank: by the mean, and its 95 % interval over resamples of patients")
    return notes


def interval_notes(notes: Sequence[str]) -> list[str]:
    """Return the different notes of intervals, with the mark that they explain."""
    different = sorted(set(notes) - {""})
    return [note if note.startswith("no interval") else f"? {note}" for note in different]


def tier_and_rank(standing: Standing | None) -> tuple[str, str]:
    """Return the tier, a dash if no pair is separable, and the rank with its interval."""
    if standing is None:
        return "", ""
    rank = f"{'=' if standing.tied else ''}{standing.rank}"
    low, high = standing.rank_low, standing.rank_high
    return standing.group_letters or DASH, rank if low is None else f"{rank} ({low}–{high})"


def input_text(record: Record) -> str:
    """Return the side of the input in pixels, after the view if it is not the whole image."""
    view = record.spec.view
    return str(view.px) if view.kind == "whole" else f"{view.kind} {view.px}"


def _row(row: Row, block: Block) -> list[Cell | str]:
    first, *others = (Cell.of_score(score) for score in row.scores.values())
    difference = row.standing and row.standing.difference
    reference = Cell.of(difference.mean, difference.interval) if difference else DASH
    settings = recipe(row.record)
    head = f"{row.head} ({row.record.facts['head_parameters']:,})"
    return [
        *tier_and_rank(row.standing),
        row.backbone,
        *([row.protocol] if block.rows[0].protocol else []),
        f"{head}, {settings}" if settings else head,
        input_text(row.record),
        first,
        *([reference] if block.reference_asked else []),
        *others,
        ", ".join(row.flags),
    ]


def _chance_row(baseline: ChanceRow, block: Block) -> list[Cell | str]:
    first, *others = (Cell(baseline.means[name]) for name in block.rows[0].scores)
    return [
        *("", "", baseline.baseline),
        *([""] if block.rows[0].protocol else []),
        *("", "", first),
        *([""] if block.reference_asked else []),
        *others,
        "",
    ]
