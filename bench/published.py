"""Numbers that others have printed, as data: files of `leaderboards/published/`.

They are kept as they are printed, names and percents included, and are never mixed with ours.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Printed:
    """A score as a paper prints it, with its 95 % interval; from 0 to 1."""

    mean: float
    low: float
    high: float


def printed(file: str, table: int) -> dict[tuple[str, str, str], Printed]:
    """Read a table of a paper: scores by method, data set and score, each as the paper names it.

    Args:
        file: its name without the suffix. "cmd_paper" holds Tables 1 to 3 of arXiv 2605.08276.
    """
    text = files("bench.leaderboards").joinpath("published", f"{file}.csv").read_text("utf-8")
    return {
        (row["method"], row["dataset"], row["score"]): Printed(
            *(round(float(row[column]) / 100, 6) for column in ("value", "ci_low", "ci_high"))
        )
        for row in csv.DictReader(text.splitlines())
        if int(row["table"]) == table
    }
