"""A table of text that is shown by rich and written as Markdown alike, and the numbers in it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bench.api.board import Interval
from bench.api.report import Sheet


def rich_table(sheet: Sheet) -> Table:
    """Show a sheet on a terminal, each group below its name; cells that do not fit are folded."""
    table = Table(title=escape(sheet.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(sheet.columns):
        if number or not sheet.grouped:
            justify = "right" if number >= sheet.words else "left"
            table.add_column(column, justify=justify, overflow="fold")
    group = None
    for row in sheet.rows:
        if sheet.grouped and row[0] != group:
            group = row[0]
            table.add_row(escape(group), style="bold")
        own = [f" {row[1]}", *row[2:]] if sheet.grouped else row
        table.add_row(*map(escape, own))
    return table


def pipes(sheet: Sheet) -> Iterator[str]:
    """Write a sheet as the lines of a Markdown table."""
    marks = ["---" if n < sheet.words else "---:" for n in range(len(sheet.columns))]
    for row in (sheet.columns, marks, *sheet.rows):
        yield f"| {' | '.join(each.replace('|', '/') for each in row)} |"


def decimals(value: float | None, digits: int = 3) -> str:
    """Write a number; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    """Write a p value: never as none at all, which no test can find."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def bracketed(mean: float | None, bounds: Interval) -> str:
    """Write a mean and its interval; "?" marks a doubtful one."""
    if mean is None or bounds.low is None:
        return decimals(mean)
    mark = " ?" if bounds.note else ""
    return f"{decimals(mean)} [{decimals(bounds.low)}, {decimals(bounds.high)}]{mark}"
