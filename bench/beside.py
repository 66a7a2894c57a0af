"""What a paper prints of the data set of a block: shown below it, never mixed with it.

Other splits, labels and settings stand behind printed numbers: they are read, not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.board import Block, dataset_name, part
from bench.errors import BenchError
from bench.lint import suspect
from bench.published import PrintedCell, cells
from bench.typeset import Cell, Sheet

FILE = "cmd_paper"
PAPER = "arXiv 2605.08276"
HEADING = f"printed in {PAPER} (not comparable: other splits and settings)"
SCORES = {"Dice": "dice_macro", "BF1": "bf1", "Precision": "precision_macro"}
"""The paper's scores, and the scores of ours that they seem to be: means of both classes."""


@dataclass(frozen=True)
class PrintedRow:
    """A printed row: a method in one setting of a table, on one data set.

    Attributes:
        cells: by our name of the score.
    """

    table: str
    setting: str
    method: str
    cells: Mapping[str, PrintedCell]


def check_with(name: str | None) -> None:
    """Refuse what `--with` does not know."""
    if name not in (None, "published"):
        raise BenchError(f"--with {name!r}: it takes published.")


def our_name(dataset: str) -> str:
    """Give our name of a data set that a paper names: "CPM-15" is cpm15."""
    return re.sub(r"\W", "", dataset).lower()


def printed_rows(block: Block) -> list[PrintedRow]:
    """Find what is printed of the data set and the scores of a block, in the paper's order.

    Rows of few shots stand below a block of as many shots, all others below the other blocks.
    """
    record = block.rows[0].record
    shots = part(record, "protocol").get("shots")
    names = block.rows[0].scores
    found: dict[tuple[str, str, str], dict[str, PrintedCell]] = {}
    for cell in cells(FILE):
        name = SCORES.get(cell.score, "")
        there = our_name(cell.dataset) == dataset_name(record) and shots_of(cell) == shots
        if there and name in names:
            found.setdefault((cell.table, cell.setting, cell.method), {})[name] = cell
    return [PrintedRow(*key, cells=own) for key, own in found.items()]


def shots_of(cell: PrintedCell) -> int | None:
    """Give the shots of a printed cell; None where it is not of few shots."""
    match = re.fullmatch(r"(\d+)-shot", cell.setting)
    return int(match[1]) if match else None


def sheet(rows: Sequence[PrintedRow]) -> Sheet:
    """Show printed rows; a number in doubt has a mark."""
    names = [name for name in SCORES.values() if any(name in row.cells for row in rows)]
    doubts = {each: suspect(each) for row in rows for each in row.cells.values()}
    kinds = sorted({kind for doubt in doubts.values() for kind in doubt.split("; ") if kind})
    theirs = {ours: name for name, ours in SCORES.items()}
    return Sheet(
        title=HEADING,
        columns=["table", "setting", "method", *(f"{theirs[name]} ({name})" for name in names)],
        rows=[
            [
                *(Cell(words) for words in (row.table, row.setting, row.method)),
                *(number(row.cells.get(name), doubts) for name in names),
            ]
            for row in rows
        ],
        notes=[f"? in doubt: {', '.join(kinds)} (`bench lint-published`)"] if kinds else [],
    )


def number(cell: PrintedCell | None, doubts: Mapping[PrintedCell, str]) -> Cell:
    """Show one printed number; a dash where there is none."""
    if cell is None:
        return Cell("–")
    own = cell.printed
    mark = "?" if doubts.get(cell) else ""
    return Cell(value=own.mean, low=own.low, high=own.high, mark=mark)


def as_json(rows: Sequence[PrintedRow]) -> dict[str, object]:
    """Give printed rows for machines."""
    return {
        "heading": HEADING,
        "rows": [
            {
                "table": row.table,
                "setting": row.setting,
                "method": row.method,
                "scores": {
                    name: {
                        "mean": cell.printed.mean,
                        "ci_low": cell.printed.low,
                        "ci_high": cell.printed.high,
                        "in_doubt": suspect(cell),
                    }
                    for name, cell in row.cells.items()
                },
            }
            for row in rows
        ],
    }
