"""Find a run of rows of a printed table whose intervals slipped into the row above or below.

Each mean lies somewhere within its interval, and nearly in its middle; where the intervals of
several rows were moved, they fit the means of the neighbouring row instead. The run sought is that
which leaves all means of the table nearest to the middle of their intervals, in half-widths squared
and summed. It counts if it takes every mean of the run into its interval, and as printed some are
outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.published import PrintedCell

Rows = Sequence[Sequence[PrintedCell]]


@dataclass(frozen=True)
class Shift:
    """A run of rows with the intervals of others.

    Attributes:
        rows: the rows, each with the cells as they are printed.
        step: 1 where the intervals of a row stand in the row below, -1 above.
        inside: how many means of the run lie in the interval that is theirs then.
        inside_as_printed: how many lie in the interval printed beside them.
    """

    rows: Rows
    step: int
    inside: int
    inside_as_printed: int


def find_shift(rows: Rows) -> Shift | None:
    """Find the run of at least two rows; None where there is none, or columns differ."""
    columns = [[(cell.dataset, cell.score) for cell in row] for row in rows]
    if len(rows) < 3 or any(each != columns[0] for each in columns):
        return None
    in_place = np.array([_offsets(row, row) for row in rows])  # (rows, columns) in half-widths
    best, found = float((in_place**2).sum()), None
    for step in (1, -1):
        for first, last in _runs(len(rows), step):
            run = rows[first : last + 1]
            others = rows[first + step : last + 1 + step]
            moved = np.array([_offsets(*pair) for pair in zip(run, others, strict=True)])
            printed = in_place[first : last + 1]
            cost = float((in_place**2).sum() - (printed**2).sum() + (moved**2).sum())
            if cost < best and _inside(printed) < printed.size == _inside(moved):
                best = cost
                found = Shift(run, step, _inside(moved), _inside(printed))
    return found


def _runs(n_rows: int, step: int) -> list[tuple[int, int]]:
    """List the first and last row of every run whose neighbours by `step` are in the table."""
    start, stop = (0, n_rows - 1) if step > 0 else (1, n_rows)
    return [(first, last) for first in range(start, stop) for last in range(first + 1, stop)]


def _offsets(means: Sequence[PrintedCell], bounds: Sequence[PrintedCell]) -> list[float]:
    """Tell how far the means of a row lie from the middles of intervals, in their half-widths."""
    offsets = []
    for mean, bound in zip(means, bounds, strict=True):
        low, high = bound.printed.low, bound.printed.high
        half = max(high - low, bound.digit) / 2
        offsets.append((mean.printed.mean - (low + high) / 2) / half)
    return offsets


def _inside(offsets: np.ndarray) -> int:
    """Count what lies within the interval; rounding may not decide at its ends."""
    return int((abs(offsets) <= 1 + 1e-9).sum())
