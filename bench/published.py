"""Numbers that others have printed, as data: files of `leaderboards/published/`.

They are kept as they are printed, names and percents included, and are never mixed with ours.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files


@dataclass(frozen=True)
class Printed:
    """A score as a paper prints it, with its 95 % interval; from 0 to 1."""

    mean: float
    low: float
    high: float


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


def printed(file: str, table: int) -> dict[tuple[str, str, str], Printed]:
    """Read a table of a paper: scores by method, data set and score, each as the paper names it.

    Args:
        file: its name without the suffix. "cmd_paper" holds Tables 1 to 3 of arXiv 2605.08276.
    """
    return {
        (row["method"], row["dataset"], row["score"]): Printed(
            *(round(float(row[column]) / 100, 6) for column in ("value", "ci_low", "ci_high"))
        )
        for row in _rows(file)
        if int(row["table"]) == table
    }


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


def _rows(file: str) -> csv.DictReader:
    text = files("bench.leaderboards").joinpath("published", f"{file}.csv").read_text("utf-8")
    return csv.DictReader(text.splitlines())
