"""Numbers that others have printed, as data: files of `leaderboards/published/`.

They are kept as they are printed, digits and percents included, and are never mixed with ours. The
columns `setting` and `unit` say what a table's heading says: which shots or steps, and percents or
fractions.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files

from bench.errors import BenchError

UNITS = {"percent": 100.0, "fraction": 1.0}


@dataclass(frozen=True)
class Printed:
    """A score as a paper prints it, with its 95 % interval; from 0 to 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PrintedCell:
    """A cell of a paper's table.

    Attributes:
        file: the name of the file it is in, without the suffix.
        table: its number ("4", "C1").
        setting: what sets cells of one table apart beside method and data set ("5-shot"), or the
            protocol of the table.
        method, dataset, score: as the paper names them, a data set in one spelling ("CPM-15").
        digit: what one unit of the last printed digit is worth, on the scale of 0 to 1.
    """

    file: str
    table: str
    setting: str
    method: str
    dataset: str
    score: str
    printed: Printed
    digit: float


@dataclass(frozen=True)
class Size:
    """How large a paper says that a method is, and which of our models it is.

    Attributes:
        method: as the paper names it.
        backbone: our name of it, and `options` ours too, as text.
        head: our name; "" where it is the backbone's own.
        frozen_m: millions of frozen parameters, as printed; "-" where none are.
        head_m: millions of the head, as printed, or a word in place of a number.
        whole: whether the one number that is printed counts extractor and head together.
        note: why ours can be another number.
    """

    method: str
    backbone: str
    options: Mapping[str, str]
    head: str
    frozen_m: str
    head_m: str
    whole: bool
    note: str


@lru_cache(maxsize=8)
def cells(file: str) -> tuple[PrintedCell, ...]:
    """Read all tables of a paper, in the order in which they are printed.

    Args:
        file: its name without the suffix. "cmd_paper" holds Tables 1 to 7 and C1 of arXiv
            2605.08276.

    Raises:
        BenchError: there is no such file, or it holds no scores.
    """
    rows = _rows(file)
    if "value" not in rows[0]:
        raise BenchError(f"{file} holds no scores. Choose one that does: cmd_paper.")
    return tuple(_cell(file, row) for row in rows)


def printed(file: str, table: int | str) -> dict[tuple[str, str, str], Printed]:
    """Read a table of a paper: scores by method, data set and score, each as the paper names it.

    Raises:
        BenchError: the table has several settings: its scores are not told apart by these three.
    """
    own = [cell for cell in cells(file) if cell.table == str(table)]
    settings = sorted({cell.setting for cell in own})
    if len(settings) > 1:
        raise BenchError(
            f"Table {table} of {file} has several settings ({', '.join(settings)}): read `cells`."
        )
    return {(cell.method, cell.dataset, cell.score): cell.printed for cell in own}


def sizes(file: str) -> dict[int, list[Size]]:
    """Read the sizes that a paper prints, by the number of the table.

    Args:
        file: its name without the suffix. "cmd_paper_params" holds Table 4 of arXiv 2605.08276.
    """
    tables: dict[int, list[Size]] = {}
    for row in _rows(file):
        size = Size(
            method=row["method"],
            backbone=row["backbone"],
            options=dict(pair.split("=", 1) for pair in row["options"].split()),
            head=row["head"],
            frozen_m=row["frozen_m"],
            head_m=row["head_m"],
            whole=row["whole"] == "yes",
            note=row["note"],
        )
        tables.setdefault(int(row["table"]), []).append(size)
    return tables


def rounds_to(count: int, millions: str) -> bool:
    """Tell whether a count, rounded to as many digits as are printed, gives the printed millions.

    Zeros that end a whole number stand for digits that were not printed: 1,134,953,984 rounds to
    "1100", and 90,393,000 to "90.4".
    """
    number = Decimal(millions)
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if exponent == 0:
        written = "".join(map(str, digits))
        exponent = len(written) - len(written.rstrip("0"))
    return abs(Decimal(count) / 1_000_000 - number) * 2 <= Decimal(10) ** exponent


def _cell(file: str, row: dict[str, str]) -> PrintedCell:
    whole = UNITS[row["unit"]]
    columns = ("value", "ci_low", "ci_high")
    decimals = len(row["value"].partition(".")[2])
    return PrintedCell(
        file=file,
        table=row["table"],
        setting=row["setting"],
        method=row["method"],
        dataset=row["dataset"],
        score=row["score"],
        printed=Printed(*(round(float(row[column]) / whole, 6) for column in columns)),
        digit=10.0**-decimals / whole,
    )


def _rows(file: str) -> list[dict[str, str]]:
    folder = files("bench.leaderboards").joinpath("published")
    known = sorted(each.name.removesuffix(".csv") for each in folder.iterdir())
    if file not in known:
        raise BenchError(f"no published numbers of {file!r}. Choose one of {', '.join(known)}.")
    text = folder.joinpath(f"{file}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
