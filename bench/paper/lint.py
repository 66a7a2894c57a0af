"""Check the printed numbers of a paper for inconsistencies.

Each check looks for a pattern that correct tables never or hardly ever show. A finding is not
always an error: a misplaced row is one, a data set of two images is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TypeVar

import numpy as np

from bench.paper.published import PrintedCell, cells

Key = TypeVar("Key", bound=Hashable)

EXCLUDED = "interval excludes its mean"
SHIFTED = "intervals moved by a row"
SAME_MEANS = "identical means"
MIDPOINT = "mean is the midpoint"
AT_CHANCE = "at chance"
REPEATED = "printed twice"
SUSPECT = (EXCLUDED, SHIFTED, SAME_MEANS, MIDPOINT)
"""Kinds of findings that make a number or its interval doubtful; the others are remarks."""

CHANCE_PRECISION = 0.5  # chance level of macro precision, which the paper seems to print
FEWEST_ALIKE = 3  # fewer equal cells can be a coincidence
FEWEST_MIDPOINTS = 4  # cells of a data set in a table; fewer can be a coincidence


@dataclass(frozen=True)
class LintFinding:
    """A result of a check.

    Attributes:
        kind: one of the kinds above.
        table: number of the table.
        description: one sentence.
        cells: the cells concerned.
    """

    kind: str
    table: str
    description: str
    cells: tuple[PrintedCell, ...]

    @property
    def suspect(self) -> bool:
        """Whether the finding makes its cells doubtful."""
        return self.kind in SUSPECT


def lint(printed: Sequence[PrintedCell]) -> list[LintFinding]:
    """Run all checks on printed cells, which must be in printed order."""
    checks = (_excluded, _shifted, _same_means, _midpoints, _at_chance, _repeated)
    return [finding for check in checks for finding in check(printed)]


def suspect(cell: PrintedCell) -> str:
    """Return why a printed cell is doubtful, or "" if no check objects."""
    kinds = [finding.kind for finding in _of_file(cell.file) if cell in finding.cells]
    return "; ".join(dict.fromkeys(kind for kind in kinds if kind in SUSPECT))


@lru_cache(maxsize=8)
def _of_file(file: str) -> tuple[LintFinding, ...]:
    return tuple(lint(cells(file)))


def _excluded(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find means that lie outside their own interval."""
    wrong = [cell for cell in printed if not _interval_contains(cell, cell.printed.mean)]
    for (table, _, method), outside in _grouped(wrong, _row).items():
        total = sum(_row(cell) == _row(outside[0]) for cell in printed)
        text = f"{method}: {len(outside)} of {total} intervals do not contain their mean"
        yield LintFinding(EXCLUDED, table, text, tuple(outside))


def _shifted(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find a run of rows whose intervals are printed in the row above or below."""
    panels = _grouped(printed, lambda cell: (cell.table, cell.setting))
    for (table, _), panel in panels.items():
        shift = find_shift(list(_grouped(panel, _row).values()))
        if shift is None:
            continue
        moved = [cell for row in shift.rows for cell in row]
        where, other = ("low", "below") if shift.step > 0 else ("high", "above")
        text = (
            f"from {moved[0].method} to {moved[-1].method} the intervals are one row too {where}: "
            f"with those of the row {other}, {shift.inside} of {len(moved)} contain their mean; as "
            f"printed, {shift.inside_as_printed}"
        )
        yield LintFinding(SHIFTED, table, text, tuple(moved))


def _same_means(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find two methods of a table with identical means but different intervals."""
    for one, other in combinations(_grouped(printed, _row).values(), 2):
        if _row(one[0])[:2] != _row(other[0])[:2]:
            continue
        pairs = _matched(one, other)
        same = [a.printed.mean == b.printed.mean for a, b in pairs]
        if (
            len(pairs) >= FEWEST_ALIKE
            and all(same)
            and any(a.printed != b.printed for a, b in pairs)
        ):
            text = f"{one[0].method} and {other[0].method}: all {len(pairs)} means are identical"
            yield LintFinding(SAME_MEANS, one[0].table, text, (*one, *other))


def _midpoints(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find data sets on which every mean is the exact midpoint of its interval.

    A percentile bootstrap of two images has this property: its resamples have three means, and
    the interval spans the scores of the two images. If it holds for a data set in a whole table,
    rows of other tables are reported too when all their cells on that data set have it.
    """
    by_set = _grouped(printed, lambda cell: (cell.table, cell.dataset))
    complete = {
        key: cells_of_set
        for key, cells_of_set in by_set.items()
        if len(cells_of_set) >= FEWEST_MIDPOINTS and all(map(_is_midpoint, cells_of_set))
    }
    datasets = {dataset for _, dataset in complete}
    for (table, dataset), cells_of_set in by_set.items():
        rows = _grouped(cells_of_set, _row).values() if dataset in datasets else ()
        midpoints = complete.get((table, dataset)) or [
            cell for row in rows if len(row) > 1 and all(map(_is_midpoint, row)) for cell in row
        ]
        if midpoints:
            text = (
                f"{dataset}: {len(midpoints)} of {len(cells_of_set)} means are the exact midpoint "
                "of their interval, as for a bootstrap of two images"
            )
            yield LintFinding(MIDPOINT, table, text, tuple(midpoints))


def _at_chance(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find methods whose Precision is not significantly different from chance."""
    precisions = [cell for cell in printed if cell.score == "Precision"]
    at_chance = [cell for cell in precisions if _interval_contains(cell, CHANCE_PRECISION)]
    by_method = _grouped(at_chance, lambda cell: (cell.table, cell.method))
    for (table, method), method_cells in by_method.items():
        text = f"{method}: the interval of Precision contains 0.5, chance level if it is macro"
        yield LintFinding(AT_CHANCE, table, text, tuple(method_cells))


def _repeated(printed: Sequence[PrintedCell]) -> Iterator[LintFinding]:
    """Find rows that are printed in two tables: one experiment, not two."""
    for one, other in combinations(_grouped(printed, _row).values(), 2):
        pairs = _matched(one, other)
        if one[0].table == other[0].table or len(pairs) < 2:
            continue
        if all(a.printed == b.printed for a, b in pairs):
            first, second = (f"{row[0].method} ({row[0].setting})" for row in (one, other))
            text = f"{first} equals {second} of Table {other[0].table}: {len(pairs)} cells"
            repeated = tuple(cell for pair in pairs for cell in pair)
            yield LintFinding(REPEATED, one[0].table, text, repeated)


def _interval_contains(cell: PrintedCell, value: float) -> bool:
    return cell.printed.low <= value <= cell.printed.high


def _is_midpoint(cell: PrintedCell) -> bool:
    """Return whether the mean is the midpoint of its interval, to the printed precision."""
    twice = 2 * cell.printed.mean - cell.printed.low - cell.printed.high
    return abs(twice) <= 1.01 * cell.digit


def _row(cell: PrintedCell) -> tuple[str, str, str]:
    return cell.table, cell.setting, cell.method


def _matched(
    one: Sequence[PrintedCell], other: Sequence[PrintedCell]
) -> list[tuple[PrintedCell, PrintedCell]]:
    """Pair the cells of two rows that share data set and score."""
    by_key = {(cell.dataset, cell.score): cell for cell in other}
    pairs = [(cell, by_key.get((cell.dataset, cell.score))) for cell in one]
    return [(cell, match) for cell, match in pairs if match is not None]


def _grouped(
    printed: Sequence[PrintedCell], key: Callable[[PrintedCell], Key]
) -> dict[Key, list[PrintedCell]]:
    groups: dict[Key, list[PrintedCell]] = defaultdict(list)
    for cell in printed:
        groups[key(cell)].append(cell)
    return groups


Rows = Sequence[Sequence[PrintedCell]]


@dataclass(frozen=True)
class IntervalShift:
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


def find_shift(rows: Rows) -> IntervalShift | None:
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
                best_shift = IntervalShift(run, step, n_inside, n_inside_as_printed)
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
