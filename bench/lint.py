"""What is wrong with printed numbers, told from the numbers alone.

Each check asks for something that correct tables cannot show, or hardly ever. What a finding means
is for its reader: a misplaced row is an error, a data set of two images is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TypeVar

from bench.lint_shift import find_shift
from bench.published import PrintedCell, cells

Key = TypeVar("Key", bound=Hashable)

EXCLUDED = "interval excludes its mean"
SHIFTED = "intervals moved by a row"
SAME_MEANS = "identical means"
MIDPOINT = "mean is the midpoint"
AT_CHANCE = "at chance"
REPEATED = "printed twice"
SUSPECT = (EXCLUDED, SHIFTED, SAME_MEANS, MIDPOINT)
"""Kinds that put a number or its interval in doubt; the others say how to read them."""

CHANCE_PRECISION = 0.5  # of a macro precision, as the paper's seems to be
FEWEST_ALIKE = 3  # cells; fewer agree by accident
FEWEST_MIDPOINTS = 4  # cells, all of a data set in a table; a single one is a midpoint by accident


@dataclass(frozen=True)
class Finding:
    """One thing that printed numbers show.

    Attributes:
        kind: one of the kinds above.
        table: the number of the table.
        says: a sentence.
        cells: the cells it is about.
    """

    kind: str
    table: str
    says: str
    cells: tuple[PrintedCell, ...]

    @property
    def suspect(self) -> bool:
        """Whether it puts its cells in doubt."""
        return self.kind in SUSPECT


def lint(printed: Sequence[PrintedCell]) -> list[Finding]:
    """Look for what is wrong with printed numbers; cells in the order in which they are printed."""
    checks = (_excluded, _shifted, _same_means, _midpoints, _at_chance, _repeated)
    return [finding for check in checks for finding in check(printed)]


def suspect(cell: PrintedCell) -> str:
    """Say why a printed cell is in doubt; "" where nothing is known against it."""
    kinds = [finding.kind for finding in _of_file(cell.file) if cell in finding.cells]
    return "; ".join(dict.fromkeys(kind for kind in kinds if kind in SUSPECT))


@lru_cache(maxsize=8)
def _of_file(file: str) -> tuple[Finding, ...]:
    return tuple(lint(cells(file)))


def _excluded(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find means that lie outside their own interval."""
    wrong = [cell for cell in printed if not _holds(cell, cell.printed.mean)]
    for (table, _, method), own in _grouped(wrong, _row).items():
        every = sum(_row(cell) == _row(own[0]) for cell in printed)
        says = f"{method}: {len(own)} of {every} intervals do not hold their mean"
        yield Finding(EXCLUDED, table, says, tuple(own))


def _shifted(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find a run of rows whose intervals stand in the row above or below."""
    for (table, _), own in _grouped(printed, lambda cell: (cell.table, cell.setting)).items():
        shift = find_shift(list(_grouped(own, _row).values()))
        if shift is None:
            continue
        moved = [cell for row in shift.rows for cell in row]
        where, other = ("low", "below") if shift.step > 0 else ("high", "above")
        says = (
            f"from {moved[0].method} to {moved[-1].method} the intervals stand one row too {where}:"
            f" taken from the row {other}, {shift.inside} of {len(moved)} hold their mean; as "
            f"printed, {shift.inside_as_printed}"
        )
        yield Finding(SHIFTED, table, says, tuple(moved))


def _same_means(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find two methods of a table that have the same means throughout, but other intervals."""
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
            says = f"{one[0].method} and {other[0].method}: all {len(pairs)} means are the same"
            yield Finding(SAME_MEANS, one[0].table, says, (*one, *other))


def _midpoints(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find data sets on which every mean is the exact midpoint of its interval.

    A percentile bootstrap of two images gives just that: its resamples have three means, and the
    interval is the two images. Where a whole table shows it for a data set, rows of other tables
    all of whose cells on that data set show it are counted too.
    """
    by_set = _grouped(printed, lambda cell: (cell.table, cell.dataset))
    whole = {
        key: own
        for key, own in by_set.items()
        if len(own) >= FEWEST_MIDPOINTS and all(map(_is_midpoint, own))
    }
    known = {dataset for _, dataset in whole}
    for (table, dataset), every in by_set.items():
        rows = _grouped(every, _row).values() if dataset in known else ()
        own = whole.get((table, dataset)) or [
            cell for row in rows if len(row) > 1 and all(map(_is_midpoint, row)) for cell in row
        ]
        if own:
            says = (
                f"{dataset}: {len(own)} of {len(every)} means are the exact midpoint of their "
                "interval, as a bootstrap of two images gives"
            )
            yield Finding(MIDPOINT, table, says, tuple(own))


def _at_chance(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find methods whose Precision cannot be told from a guess."""
    guessed = [
        cell for cell in printed if cell.score == "Precision" and _holds(cell, CHANCE_PRECISION)
    ]
    for (table, method), own in _grouped(guessed, lambda cell: (cell.table, cell.method)).items():
        says = f"{method}: the interval of Precision holds 0.5, a guess if it is macro"
        yield Finding(AT_CHANCE, table, says, tuple(own))


def _repeated(printed: Sequence[PrintedCell]) -> Iterator[Finding]:
    """Find rows that stand in two tables: one experiment, not two."""
    for one, other in combinations(_grouped(printed, _row).values(), 2):
        pairs = _matched(one, other)
        if one[0].table == other[0].table or len(pairs) < 2:
            continue
        if all(a.printed == b.printed for a, b in pairs):
            here, there = (f"{row[0].method} ({row[0].setting})" for row in (one, other))
            says = f"{here} is {there} of Table {other[0].table}: {len(pairs)} cells"
            own = tuple(cell for pair in pairs for cell in pair)
            yield Finding(REPEATED, one[0].table, says, own)


def _holds(cell: PrintedCell, value: float) -> bool:
    return cell.printed.low <= value <= cell.printed.high


def _is_midpoint(cell: PrintedCell) -> bool:
    """Whether a mean is the midpoint, as exactly as the printed digits can tell."""
    twice = 2 * cell.printed.mean - cell.printed.low - cell.printed.high
    return abs(twice) <= 1.01 * cell.digit


def _row(cell: PrintedCell) -> tuple[str, str, str]:
    return cell.table, cell.setting, cell.method


def _matched(
    one: Sequence[PrintedCell], other: Sequence[PrintedCell]
) -> list[tuple[PrintedCell, PrintedCell]]:
    """Pair the cells of two rows that are about the same data set and score."""
    there = {(cell.dataset, cell.score): cell for cell in other}
    found = [(cell, there.get((cell.dataset, cell.score))) for cell in one]
    return [(cell, match) for cell, match in found if match is not None]


def _grouped(
    printed: Sequence[PrintedCell], key: Callable[[PrintedCell], Key]
) -> dict[Key, list[PrintedCell]]:
    groups: dict[Key, list[PrintedCell]] = defaultdict(list)
    for cell in printed:
        groups[key(cell)].append(cell)
    return groups
