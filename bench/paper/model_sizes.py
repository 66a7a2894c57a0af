"""Compare the sizes of models with those printed in a paper."""

from __future__ import annotations

from bench.api import Progress
from bench.errors import BenchError
from bench.models.describe import count_parameters
from bench.paper import published

PAPER = "cmd_paper_params"


def beside_paper(table: int, progress: Progress) -> list[dict[str, object]]:
    """Compare the size of every model of a table of arXiv 2605.08276 with the printed size.

    If a model cannot be built here, the note of its row gives the reason.

    Raises:
        BenchError: the table has no model sizes.
    """
    tables = published.sizes(PAPER)
    if table not in tables:
        numbers = ", ".join(map(str, tables))
        raise BenchError(f"table {table} has no model sizes; --table takes {numbers}.")
    rows = []
    for size in tables[table]:
        progress("counting", len(rows), len(tables[table]))
        rows.append(beside(size))
    return rows


def beside(size: published.Size) -> dict[str, object]:
    """Compare the size of the model of one row with the printed size."""
    count, head_count, head = None, None, size.head
    printed, head_printed = size.frozen_m, size.head_m
    notes = [size.note] if size.note else []
    try:
        shape, plugin, head_count = count_parameters(size.backbone, size.head or None, size.options)
        count, head = shape.parameters, plugin.name
    except Exception as error:  # raised by the plug-in or by a library that is not installed
        notes.insert(0, str(error).rstrip(".") if isinstance(error, BenchError) else repr(error))
    if size.whole:
        count = None if count is None or head_count is None else count + head_count
        head_count = None
        if printed == "-":
            printed, head_printed = head_printed, ""
    return {
        "paper": size.method,
        "backbone": " ".join([size.backbone, *(f"{k}={v}" for k, v in size.options.items())]),
        "parameters": count,
        "paper_millions": printed,
        "agrees": _agrees(count, printed),
        "head": head,
        "head_parameters": head_count,
        "paper_head_millions": head_printed,
        "head_agrees": _agrees(head_count, head_printed),
        "note": "; ".join(notes),
    }


def _agrees(count: int | None, millions: str) -> bool | None:
    if count is None or not millions.replace(".", "", 1).isdigit():
        return None
    return published.rounds_to(count, millions)
