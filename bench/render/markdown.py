"""Tables as Markdown. Text from records is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.api.report import Cell, Table

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")


def markdown(tables: Sequence[Table], level: int = 3) -> str:
    """Format tables as Markdown, with titles as headings of a level."""
    return "\n\n".join(_table(table, level) for table in tables) + "\n"


def escape(text: str) -> str:
    """Escape text for Markdown and HTML; unprintable characters become spaces."""
    printable = (letter if letter.isprintable() else " " for letter in text)
    return SPECIAL.sub(r"\\\1", "".join(printable))


def _table(table: Table, level: int) -> str:
    lines = [
        [escape(name) for name in table.names],
        ["---:" if right else "---" for right in table.is_number],
        *([_cell(cell, i in table.bold) for cell in row] for i, row in enumerate(table.rows)),
        *([_cell(cell, False) for cell in row] for row in table.below),
    ]
    pipes = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {escape(note)}" for note in table.notes)
    title = f"{'#' * level} {escape(table.title)}"
    return "\n\n".join(part for part in (title, pipes, notes) if part)


def _cell(cell: Cell | str, bold: bool) -> str:
    if isinstance(cell, str):
        text = escape(cell)
        return f"**{text}**" if bold and text else text
    if bold and cell.value is not None:
        return str(cell).replace(cell.number, f"**{cell.number}**", 1)
    return str(cell)
