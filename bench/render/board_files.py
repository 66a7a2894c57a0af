"""A board as a file: CSV for machines, LaTeX and Markdown for readers. Nothing here prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence

from bench.api.board import Block, Row, Score
from bench.board.scores import dataset_name, label, recipe
from bench.paper import printed_rows
from bench.paper.printed_rows import PrintedRow
from bench.render.boards import board_notes, head_words, input_words, standing_words
from bench.render.markup import Cell, Sheet, latex, markdown
from bench.render.runs import named

Printed = Mapping[int, Sequence[PrintedRow]]
"""Printed rows by the number of their block."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what starts so
COLUMNS = (
    "source",
    "block",
    "dataset",
    "scored",
    "shift",
    "protocol",
    "protocol_settings",
    "metrics_version",
    "backbone",
    "weights",
    "label",
    "head",
    "head_parameters",
    "view",
    "input_px",
    "training",
    "run_id",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "ci_method",
    "note",
    "spread_over_draws",
    "n_images",
    "n_patients",
    "undefined_images",
    "worst_image",
    "tier",
    "top_tier",
    "rank",
    "rank_low",
    "rank_high",
    "flags",
)


def as_csv(blocks: Sequence[Block], printed: Printed) -> str:
    """Write a line for each run and score; lines that a paper printed say so as their source."""
    file = io.StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for number, block in enumerate(blocks):
        for line in [*_lines(block), *_printed_lines(block, printed.get(number, ()))]:
            writer.writerow({name: _safe(value) for name, value in line.items()})
    return file.getvalue()


def as_latex(blocks: Sequence[Block], printed: Printed) -> str:
    """Write a booktabs table for each block: the top tier bold, intervals small below the mean."""
    return latex(list(_sheets(blocks, printed))) + "\n"


def as_markdown(blocks: Sequence[Block], printed: Printed) -> str:
    """Write a Markdown table for each block."""
    return markdown(list(_sheets(blocks, printed))) + "\n"


FORMATS = {"csv": as_csv, "latex": as_latex, "markdown": as_markdown}


def _sheets(blocks: Sequence[Block], printed: Printed) -> Iterator[Sheet]:
    for number, block in enumerate(blocks):
        yield block_sheet(block)
        if rows := printed.get(number):
            yield printed_rows.sheet(rows)


def block_sheet(block: Block) -> Sheet:
    """Lay a block out: its rows, chance below a rule, and what must be known of it as notes."""
    names = list(block.rows[0].scores)
    protocol = ["protocol"] if block.rows[0].protocol else []
    first = block.rows[0].scores[names[0]].summary
    gap = [Cell()] * (2 + len(protocol))
    shown = map(named, names)
    return Sheet(
        title=f"{block.title}: {first.n_images} images of {first.n_patients} patients",
        columns=["tier", "rank", "backbone", *protocol, "head", "input", *shown, "flags"],
        rows=[_row(row) for row in block.rows],
        bold=frozenset(
            i for i, row in enumerate(block.rows) if row.standing is not None and row.standing.top
        ),
        below=[
            [Cell(), Cell(), Cell(each.answer), *gap, *_means(each.means, names), Cell()]
            for each in block.chance
        ],
        notes=[*_notes(block), *board_notes([block])],
    )


def _means(means: Mapping[str, float | None], names: Sequence[str]) -> list[Cell]:
    return [Cell("–") if means[name] is None else Cell(value=means[name]) for name in names]


def _row(row: Row) -> list[Cell]:
    protocol = [Cell(row.protocol)] if row.protocol else []
    words = [
        *map(Cell, standing_words(row.standing)),
        Cell(row.backbone),
        *protocol,
        Cell(head_words(row)),
    ]
    numbers = [_number(score) for score in row.scores.values()]
    return [*words, Cell(input_words(row.record)), *numbers, Cell(", ".join(row.flags))]


def _number(score: Score) -> Cell:
    own, bounds = score.summary, score.summary.interval
    return Cell(
        value=own.mean,
        low=bounds.low,
        high=bounds.high,
        parts=score.patient_means,
        spread=own.spread,
        mark="?" if bounds.note and bounds.low is not None else "",
    )


def _notes(block: Block) -> list[str]:
    top = [row.backbone for row in block.rows if row.standing is not None and row.standing.top]
    said = [block.verdict.sentence] if block.verdict else []
    said += [f"tied, not separable from the best: {', '.join(top)}"] if len(top) > 1 else []
    said += block.notes
    if any(score.patient_means for row in block.rows for score in row.scores.values()):
        said.append("{...} in place of an interval: the mean of each patient")
    return said + ([f"not run: {', '.join(block.missing)}"] if block.missing else [])


def _lines(block: Block) -> Iterator[dict[str, object]]:
    sorted_by = next(iter(block.rows[0].scores))
    for row in block.rows:
        for name, score in row.scores.items():
            own = score.plain()
            del own["patient_means"]
            standing = _standing_fields(row) if name == sorted_by else {}
            yield {**_run_fields(row), "block": block.title, "metric": name, **own, **standing}


def _run_fields(row: Row) -> dict[str, object]:
    record = row.record
    backbone, view, protocol = record.spec.backbone, record.spec.view, record.spec.protocol
    return {
        "source": "run",
        "dataset": record.facts["dataset"],
        "scored": record.facts["scored"],
        "shift": record.spec.scored.shift,
        "protocol": protocol.name,
        "protocol_settings": json.dumps(dict(protocol.options), sort_keys=True),
        "metrics_version": record.spec.metrics_version,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "label": label(record),
        "head": row.head,
        "head_parameters": record.facts["head_parameters"],
        "view": view.kind,
        "input_px": view.px,
        "training": recipe(record),
        "run_id": record.run_id,
        "flags": "; ".join(row.flags),
    }


def _standing_fields(row: Row) -> dict[str, object]:
    own = row.standing
    if own is None:
        return {}
    return {
        "tier": own.tier,
        "top_tier": "yes" if own.top else "no",
        "rank": own.rank,
        "rank_low": own.rank_low,
        "rank_high": own.rank_high,
    }


def _printed_lines(block: Block, rows: Sequence[PrintedRow]) -> Iterator[dict[str, object]]:
    for row in rows:
        for name, cell in row.cells.items():
            doubt = printed_rows.suspect(cell)
            yield {
                "source": f"{printed_rows.HEADING}, Table {row.table}, {row.setting}",
                "block": block.title,
                "dataset": dataset_name(block.rows[0].record),
                "label": row.method,
                "metric": name,
                "mean": cell.printed.mean,
                "ci_low": cell.printed.low,
                "ci_high": cell.printed.high,
                "flags": f"in doubt: {doubt}" if doubt else "",
            }


def _safe(value: object) -> object:
    """Keep a spreadsheet from running text as a formula; numbers stay numbers."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value
