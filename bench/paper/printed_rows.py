"""Printed rows of a paper that belong below a board.

The paper uses other splits, labels and settings, so its numbers are shown but never compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.api.board import Block
from bench.api.report import DASH, Cell, Table
from bench.board.scores import dataset_name
from bench.paper.lint import suspect
from bench.paper.published import PrintedCell, cells

FILE = "cmd_paper"
PAPER = "arXiv 2605.08276"
HEADING = f"printed in {PAPER} (not comparable: other splits and settings)"
SCORES = {"Dice": "dice_macro", "BF1": "bf1", "Precision": "precision_macro"}
"""Metric names by the paper's names; the paper seems to average over both classes."""


@dataclass(frozen=True)
class PrintedRow:
    """A printed row: a method in one setting of a table, on one data set.

    Attributes:
        cells: the printed cells by metric name.
    """

    table: str
    setting: str
    method: str
    cells: Mapping[str, PrintedCell]


def our_name(dataset: str) -> str:
    """Convert the paper's name of a data set to its name here: "CPM-15" to "cpm15"."""
    return re.sub(r"\W", "", dataset).lower()


def printed_rows(block: Block) -> list[PrintedRow]:
    """Return the printed rows for a group's data set and metrics, in the paper's order.

    Few-shot rows belong to groups with the same number of shots, other rows to all other groups.
    """
    record = block.rows[0].record
    shots = record.spec.protocol.shots
    names = block.rows[0].scores
    rows: dict[tuple[str, str, str], dict[str, PrintedCell]] = {}
    for cell in cells(FILE):
        name = SCORES.get(cell.score, "")
        matches = our_name(cell.dataset) == dataset_name(record) and shots_of(cell) == shots
        if matches and name in names:
            rows.setdefault((cell.table, cell.setting, cell.method), {})[name] = cell
    return [PrintedRow(*key, cells=row_cells) for key, row_cells in rows.items()]


def shots_of(cell: PrintedCell) -> int | None:
    """Return the number of shots of a printed cell, or None if it is not a few-shot cell."""
    match = re.fullmatch(r"(\d+)-shot", cell.setting)
    return int(match[1]) if match else None


def printed_table(rows: Sequence[PrintedRow]) -> Table:
    """Build a table of printed rows; doubtful numbers are marked with "?"."""
    names = [name for name in SCORES.values() if any(name in row.cells for row in rows)]
    doubts = {cell: suspect(cell) for row in rows for cell in row.cells.values()}
    kinds = sorted({kind for doubt in doubts.values() for kind in doubt.split("; ") if kind})
    paper_names = {metric: name for name, metric in SCORES.items()}
    return Table(
        title=HEADING,
        columns=[
            "table",
            "setting",
            "method",
            *(f"{paper_names[name]} ({name})" for name in names),
        ],
        rows=[
            [
                *(row.table, row.setting, row.method),
                *(number(row.cells.get(name), doubts) for name in names),
            ]
            for row in rows
        ],
        notes=[f"? doubtful: {', '.join(kinds)} (`bench lint-published`)"] if kinds else [],
    )


def number(cell: PrintedCell | None, doubts: Mapping[PrintedCell, str]) -> Cell | str:
    """Build the table cell of a printed number; a dash stands for a missing one."""
    if cell is None:
        return DASH
    score = cell.printed
    mark = "?" if doubts.get(cell) else ""
    return Cell(value=score.mean, low=score.low, high=score.high, mark=mark)


def csv_rows(block: Block, rows: Sequence[PrintedRow]) -> Iterator[dict[str, object]]:
    """Yield the CSV rows of printed cells; their source is the paper."""
    for row in rows:
        for name, cell in row.cells.items():
            doubt = suspect(cell)
            yield {
                "source": f"{HEADING}, Table {row.table}, {row.setting}",
                "block": block.title,
                "dataset": dataset_name(block.rows[0].record),
                "label": row.method,
                "metric": name,
                "mean": cell.printed.mean,
                "ci_low": cell.printed.low,
                "ci_high": cell.printed.high,
                "flags": f"in doubt: {doubt}" if doubt else "",
            }


def as_json(rows: Sequence[PrintedRow]) -> dict[str, object]:
    """Return printed rows as JSON-serialisable values."""
    return {
        "heading": HEADING,
        "rows": [
            {
                "table": row.table,
                "setting": row.setting,
                "method": row.method,
                "scores": {name: cell_json(cell) for name, cell in row.cells.items()},
            }
            for row in rows
        ],
    }


def cell_json(cell: PrintedCell) -> dict[str, object]:
    """Return a printed score, its interval and why it is doubtful as JSON-serialisable values."""
    score = cell.printed
    return {
        "mean": score.mean,
        "ci_low": score.low,
        "ci_high": score.high,
        "in_doubt": suspect(cell),
    }
