"""Tables on a terminal, by rich."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from io import StringIO

from rich.box import Box
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table as RichTable

from bench.api.report import DASH, Cell, Column, Table
from bench.render import printable

NARROW = 100  # columns of a terminal, below which only columns with `keep` are shown
WIDTH = 120  # columns of the page if the output is not a terminal
SVG_WIDTH = 140
BOX = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def rich_table(table: Table, width: int | None = None) -> RichTable:
    """Convert a table for rich, which folds cells that do not fit.

    Args:
        width: of the terminal in characters; None shows all columns.
    """
    columns = [column if isinstance(column, Column) else Column(column) for column in table.columns]
    is_narrow = width is not None and width < NARROW
    shown = [i for i, column in enumerate(columns) if column.keep or not is_narrow]
    notes = list(table.notes)
    if hidden := [column.name for i, column in enumerate(columns) if i not in shown]:
        notes.append(f"not shown below {NARROW} columns: {', '.join(hidden)}")
    drawn = RichTable(
        title=escape(table.title) or None,
        caption=escape("\n".join(notes)) or None,
        box=BOX,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=table.stacked,
    )
    if table.grouped:
        shown.remove(0)
    for i in shown:
        justify = "right" if table.is_number[i] and not table.stacked else "left"
        drawn.add_column(escape(columns[i].name), justify=justify, overflow="fold")
    group = None
    for number, row in enumerate(table.rows):
        if table.grouped and row[0] != group:
            group = row[0]
            drawn.add_row(escape(str(group)), style="bold")
        cells = [_text(row[i], table.stacked) for i in shown]
        cells[0] = f" {cells[0]}" if table.grouped else cells[0]
        style = "bold" if number in table.bold else None
        drawn.add_row(*cells, style=style, end_section=number == len(table.rows) - 1)
    for row in table.below:
        drawn.add_row(*(_text(row[i], table.stacked) for i in shown), style="dim")
    return drawn


def svg(page: Sequence[Table | str], title: str) -> str:
    """Draw tables and lines as an SVG image that loads no fonts."""
    console = Console(record=True, width=SVG_WIDTH, file=StringIO(), force_terminal=True)
    for item in page:
        shown = rich_table(item) if isinstance(item, Table) else printable(item)
        console.print(shown, markup=False, highlight=False)
    image = console.export_svg(title=title)
    return re.sub(r"@font-face \{.*?\}\s*", "", image, flags=re.DOTALL)


def fields_table(
    title: str, rows: Sequence[Mapping[str, object]], *, spare: Collection[str] = ()
) -> Table:
    """Build a table of JSON objects, one per row; missing fields are empty.

    Args:
        spare: fields that are not shown on a narrow terminal.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [Column(name.replace("_", " "), name not in spare) for name in names]
    return Table(title, columns, [[_cell(row.get(name, "")) for name in names] for row in rows])


def description(rows: Sequence[Mapping[str, object]]) -> Table:
    """Build a table of descriptions: one line per field for a single object, else one row each.

    A `note` of several rows is shown once below the table, with the names of the rows.
    """
    if len(rows) == 1:
        name = str(next(iter(rows[0].values())))
        fields = [[key.replace("_", " "), str(_cell(value))] for key, value in rows[0].items()]
        return Table("", ["", name], fields)
    names: dict[str, list[str]] = {}
    for row in rows:
        if note := row.get("note"):
            names.setdefault(str(note), []).append(str(next(iter(row.values()))))
    notes = [f"{', '.join(with_note)}: {note}." for note, with_note in names.items()]
    without = [{key: value for key, value in row.items() if key != "note"} for row in rows]
    table = fields_table("", without)
    return Table(table.title, table.columns, table.rows, notes)


def escape(text: str) -> str:
    """Escape markup of rich, and control characters."""
    return escape_markup(printable(text))


def _text(cell: Cell | str, stacked: bool) -> str:
    if isinstance(cell, Cell) and stacked and cell.interval:
        return escape(f"{cell.with_spread}\n{cell.interval}")
    return escape(str(cell))


def _cell(value: object) -> Cell | str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return Cell(value, digits=0)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return " ".join(str(value).split())
