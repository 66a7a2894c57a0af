"""Read the numbers printed in papers from the CSV files in `leaderboards/published/`.

The files hold the numbers exactly as printed. They are never mixed with measured numbers. The
columns `setting` and `unit` come from a table's heading: shots or steps, percent or fraction.
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
    """A printed score and its 95 % interval, each from 0 to 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PrintedCell:
    """A cell of a paper's table.

    Attributes:
        file: name of the source file, without the suffix.
        table: number of the table ("4", "C1").
        setting: what distinguishes cells with the same method and data set ("5-shot"), or the
            protocol of the table.
        method, dataset, score: the paper's names; data sets have one spelling ("CPM-15").
        digit: value of one unit of the last printed digit, on the scale of 0 to 1.
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
    """The size of a method as printed, and the model of this package that it corresponds to.

    Attributes:
        method: the paper's name.
        backbone, options: the corresponding backbone and its options, as text.
        head: the corresponding head; "" means the backbone's default.
        frozen_m: millions of frozen parameters, as printed; "-" means none.
        head_m: millions of parameters of the head as printed, or a word instead of a number.
        whole: whether a single printed number counts extractor and head together.
        note: why the counted number can differ.
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
    """Return the cells of all tables of a paper, in printed order.

    Args:
        file: file name without the suffix. "cmd_paper" holds Tables 1 to 7 and C1 of arXiv
            2605.08276.

    Raises:
        BenchError: the file does not exist, or contains no scores.
    """
    table_rows = rows(file)
    if "value" not in table_rows[0]:
        raise BenchError(f"{file} contains no scores. Choose a file with scores: cmd_paper.")
    return tuple(_cell(file, row) for row in table_rows)


def printed(file: str, table: int | str) -> dict[tuple[str, str, str], Printed]:
    """Return a table's scores by (method, data set, score), under the paper's names.

    Raises:
        BenchError: the table has several settings, so this key is ambiguous.
    """
    table_cells = [cell for cell in cells(file) if cell.table == str(table)]
    settings = sorted({cell.setting for cell in table_cells})
    if len(settings) > 1:
        raise BenchError(
            f"Table {table} of {file} has several settings ({', '.join(settings)}): use `cells`."
        )
    return {(cell.method, cell.dataset, cell.score): cell.printed for cell in table_cells}


def sizes(file: str) -> dict[int, list[Size]]:
    """Return the model sizes printed in a paper, by table number.

    Args:
        file: file name without the suffix. "cmd_paper_params" holds Table 4 of arXiv 2605.08276.
    """
    tables: dict[int, list[Size]] = {}
    for row in rows(file):
        size = Size(
            method=row["method"],
            backbone=row["backbone"],
            options=options_of(row),
            head=row["head"],
            frozen_m=row["frozen_m"],
            head_m=row["head_m"],
            whole=row["whole"] == "yes",
            note=row["note"],
        )
        tables.setdefault(int(row["table"]), []).append(size)
    return tables


def options_of(row: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a backbone in the column `options`: "condition=uni ...", as text."""
    return dict(pair.split("=", 1) for pair in row["options"].split())


def rounds_to(count: int, millions: str) -> bool:
    """Return whether a count, rounded to the printed precision, equals the printed millions.

    Trailing zeros of a whole number count as rounded digits: 1,134,953,984 rounds to "1100", and
    90,393,000 to "90.4".
    """
    number = Decimal(millions)
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if exponent == 0:
        written = "".join(map(str, digits))
        exponent = len(written) - len(written.rstrip("0"))
    return abs(Decimal(count) / 1_000_000 - number) * 2 <= Decimal(10) ** exponent


def _cell(file: str, row: dict[str, str]) -> PrintedCell:
    scale = UNITS[row["unit"]]
    columns = ("value", "ci_low", "ci_high")
    decimals = len(row["value"].partition(".")[2])
    return PrintedCell(
        file=file,
        table=row["table"],
        setting=row["setting"],
        method=row["method"],
        dataset=row["dataset"],
        score=row["score"],
        printed=Printed(*(round(float(row[column]) / scale, 6) for column in columns)),
        digit=10.0**-decimals / scale,
    )


def rows(file: str) -> list[dict[str, str]]:
    """Return the rows of a file in `leaderboards/published/`, by column.

    Raises:
        BenchError: the file does not exist.
    """
    folder = files("bench.leaderboards").joinpath("published")
    names = sorted(path.name.removesuffix(".csv") for path in folder.iterdir())
    if file not in names:
        raise BenchError(f"no published numbers named {file!r}. Choose one of {', '.join(names)}.")
    text = folder.joinpath(f"{file}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
