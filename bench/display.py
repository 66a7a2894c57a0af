"""Turn results into rich tables and plain JSON; nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bench.board import Block, Score, label, part
from bench.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from bench.run import Outcome


def number(value: object, digits: int = 3) -> str:
    """Write a number for a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(score: Score) -> str:
    """Write an interval for a table, or why there is none."""
    bounds = score.summary.interval
    if bounds.low is None:
        return bounds.note
    mark = " ?" if bounds.note else ""
    return f"[{number(bounds.low)}, {number(bounds.high)}]{mark}"


def with_interval(score: Score) -> str:
    """Write a mean and its interval in one cell."""
    return f"{number(score.summary.mean)} {interval(score)}"


def run_table(record: Record, scores: Mapping[str, Score]) -> Table:
    """Show the scores of one run."""
    protocol = part(record, "protocol")
    first = next(iter(scores.values())).summary
    title = (
        f"{label(record)} · {part(record, 'head')['name']} head · "
        f"{part(record, 'dataset')['name']} · {protocol['name']}"
    )
    caption = f"{first.n_images} images of {first.n_patients} patients"
    if any("draw" in trial.tags for trial in record.trials):
        caption += f", {protocol['draws']} draws of {protocol['shots']} training images"
    notes = {score.summary.interval.note for score in scores.values()} - {""}
    table = Table(title=escape(title), caption="\n".join([caption, *sorted(notes)]))
    table.add_column("score")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval")
    table.add_column("worst image")
    for name, score in scores.items():
        mean = number(score.summary.mean)
        table.add_row(name, mean, interval(score), escape(score.worst))
    return table


def run_notes(outcome: Outcome, folder: Path) -> list[str]:
    """Say where a run lies, how long it took and what must be known of it."""
    seconds = outcome.context.get("seconds")
    ledger = seconds if isinstance(seconds, dict) else {}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in ledger.items())
    state = "found" if outcome.found else "committed"
    notes = [f"{state} run {outcome.record.run_id} in {folder} ({parts})"]
    if "untrained" in outcome.record.flags:
        notes.append("The weights are random: this row is a control, not a result of the backbone.")
    if "smoke" in outcome.record.flags:
        notes.append("A smoke run (--limit): it is on no board.")
    return notes


def board_table(block: Block) -> Table:
    """Show one block of a board."""
    names = list(block.rows[0].scores)
    first = block.rows[0].scores[names[0]].summary
    images = f"{first.n_images} images of {first.n_patients} patients"
    table = Table(title=escape(f"{block.title}: {images}"), title_justify="left")
    table.add_column("backbone", overflow="fold")
    table.add_column("head (parameters)")
    table.add_column("input", justify="right")
    for name in names:
        table.add_column(name)
    table.add_column("flags", overflow="fold")
    for row in block.rows:
        table.add_row(
            escape(row.backbone),
            f"{row.head} ({row.record.facts['head_parameters']:,})",
            _input(row.record),
            *(with_interval(row.scores[name]) for name in names),
            escape(", ".join(row.record.flags)),
        )
    return table


def board_notes(blocks: Sequence[Block]) -> list[str]:
    """Say once what the marks on the boards mean."""
    scores = [score for block in blocks for row in block.rows for score in row.scores.values()]
    notes = {score.summary.interval.note for score in scores} - {""}
    return [f"? {note}" for note in sorted(notes) if not note.startswith("no interval")]


def run_json(record: Record, scores: Mapping[str, Score], context: Mapping[str, object]) -> dict:
    """Give one run for machines."""
    return {
        "run_id": record.run_id,
        "spec": record.spec,
        "facts": record.facts,
        "flags": list(record.flags),
        "scores": {name: score.plain() for name, score in scores.items()},
        "trials": [
            {"tags": trial.tags, "train": trial.train, "loss": trial.loss}
            for trial in record.trials
        ],
        "context": context,
    }


def board_json(blocks: Sequence[Block]) -> list[dict]:
    """Give a board for machines."""
    return [
        {
            "title": block.title,
            "key": block.key,
            "rows": [
                {
                    "run_id": row.record.run_id,
                    "backbone": row.backbone,
                    "head": row.head,
                    "head_parameters": row.record.facts["head_parameters"],
                    "view": part(row.record, "view"),
                    "flags": list(row.record.flags),
                    "scores": {name: score.plain() for name, score in row.scores.items()},
                }
                for row in block.rows
            ],
        }
        for block in blocks
    ]


def fields_table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Show plain rows of the same fields."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _input(record: Record) -> str:
    view = part(record, "view")
    return str(view["px"]) if view["kind"] == "whole" else f"{view['kind']} {view['px']}"
