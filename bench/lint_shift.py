"""Find a run of rows of a printed table whose intervals slipped into the row above or below.

A mean is normally inside its interval and close to the middle. If the intervals of several rows
were shifted, they fit the means of the neighbouring rows instead. The search minimises the sum of
squared distances between means and interval middles, in half-widths, over the table. A run is
reported only if undoing the shift puts every mean of the run inside its interval and, as printed,
some means are outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.published import PrintedCell

Rows = Sequence[Sequence[PrintedCell]]


@dataclass(frozen=True)
class Shift:
    """A run of rows with shifted intervals.

    Attributes:
        rows: the rows, with their cells as printed.
        step: 1 if the intervals are printed in the row below, -1 if in the row above.
        inside: number of means inside their interval after undoing the shift.
        inside_as_printed: number of means inside the interval printed next to them.
    """

    rows: Rows
    step: int
    inside: int
    inside_as_printed: int


def find_shift(rows: Rows) -> Shift | None:
    """Return the best run of at least two rows, or None if none fits or the columns differ."""
    columns = [[(cell.dataset, cell.score) for cell in row] for row in rows]
    if len(rows) < 3 or any(row != columns[0] for row in columns):
        return None
    in_place = np.array([_offsets(row, row) for row in rows])  # (rows, columns) in half-widths
    best_cost, best_shift = float((in_place**2).sum()), None
    for step in (1, -1):
        for first, last in _runs(len(rows), step):
            run = rows[first : last + 1]
            others = rows[first + step : last + 1 + step]
            moved = np.array([_offsets(*pair) for pair in zip(run, others, strict=True)])
            printed = in_place[first : last + 1]
            cost = float((in_place**2).sum() - (printed**2).sum() + (moved**2).sum())
            n_inside, n_inside_as_printed = _count_inside(moved), _count_inside(printed)
            explains = n_inside == printed.size and n_inside_as_printed < printed.size
            if explains and cost < best_cost:
                best_cost = cost
                best_shift = Shift(run, step, n_inside, n_inside_as_printed)
    return best_shift


def _runs(n_rows: int, step: int) -> list[tuple[int, int]]:
    """List (first, last) of every run that stays inside the table when moved by `step`."""
    start, stop = (0, n_rows - 1) if step > 0 else (1, n_rows)
    return [(first, last) for first in range(start, stop) for last in range(first + 1, stop)]


def _offsets(means: Sequence[PrintedCell], bounds: Sequence[PrintedCell]) -> list[float]:
    """Return the distances of means from the middles of intervals, in half-widths."""
    offsets = []
    for mean, bound in zip(means, bounds, strict=True):
        low, high = bound.printed.low, bound.printed.high
        half = max(high - low, bound.digit) / 2
        offsets.append((mean.printed.mean - (low + high) / 2) / half)
    return offsets


def _count_inside(offsets: np.ndarray) -> int:
    """Count the means inside their interval; the tolerance includes means at its ends."""
    return int((abs(offsets) <= 1 + 1e-9).sum())
