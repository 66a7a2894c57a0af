"""The figures of a report and their captions."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny import named, request, run, squares, worse

from bench import registry
from bench.api.board import Block, BoardOptions
from bench.api.record import Record
from bench.api.report import Curve, CurvePlot, IntervalPlot, Point
from bench.report import figures
from bench.report.cost import cost, spread
from bench.stats.curves import curve as summed


def board(*records: Record) -> Block:
    (block,) = registry.get("leaderboards", "ranking").rows(records, BoardOptions())
    return block


def sized(record: Record, name: str, parameters: int, lost: float) -> Record:
    """Return a worse copy of a run, with another backbone name and size."""
    copy = worse(named(record, name), lost)
    return replace(copy, facts={**copy.facts, "backbone_parameters": parameters})


def curve(patients: int, points: int) -> Curve:
    """Return a learning curve; a power law is fitted to three points or more."""
    names = [f"p{number}" for number in range(patients)]
    level = np.linspace(0.4, 0.6, patients)
    return summed(
        [Point(2.0**n, f"{n}", level + 0.3 - 0.3 * 0.5**n, names) for n in range(points)],
        seed_text="test",
    )


def test_the_caption_of_a_forest_mentions_intervals_only_if_they_are_drawn(
    full, tmp_path: Path
) -> None:
    caption = figures.forest(board(full, worse(named(full, "poor"), 0.9))).caption
    assert caption.startswith("dice, and minus the best, with 95 % intervals; filled: the best row")
    few = run(request(squares(tmp_path / "squares", count=6)), tmp_path).record
    caption = figures.forest(board(few, worse(named(few, "poor"), 0.5))).caption
    assert caption.startswith("dice, and minus the best, without intervals.")
    assert "filled" not in caption


def test_the_caption_of_an_interval_plot_mentions_only_drawn_intervals() -> None:
    row, bare = ("a", 0.5, 0.4, 0.6), ("b", 0.5, None, None)
    for rows, ending in [
        ([row], " with 95 % intervals."),
        ([bare], " without intervals."),
        ([row, bare], " with 95 % intervals where available."),
    ]:
        caption = figures.interval_plot(IntervalPlot("series", "dice", rows)).caption
        assert caption == f"series: dice{ending}"


@pytest.mark.parametrize(
    ("curves", "ending"),
    [
        ({"a": curve(6, 4)}, "with 95 % intervals and fitted power laws."),
        ({"a": curve(6, 2)}, "with 95 % intervals; straight lines connect the means."),
        ({"a": curve(3, 2)}, "without intervals; straight lines connect the means."),
        (
            {"a": curve(6, 4), "b": curve(6, 2)},
            "and fitted power laws; straight lines connect means without a fit.",
        ),
    ],
)
def test_the_caption_of_curves_describes_what_is_drawn(
    curves: dict[str, Curve], ending: str
) -> None:
    caption = figures.curve(CurvePlot("labels", curves, "images", "dice")).caption
    assert caption.startswith("dice against images ")
    assert caption.endswith(ending)


def test_a_front_of_one_row_has_no_line_and_a_front_of_two_has_one(full) -> None:
    one = cost(board(sized(full, "small", 10, 0.0), sized(full, "large", 10**6, 0.5)))
    two = cost(board(sized(full, "small", 10, 0.5), sized(full, "large", 10**6, 0.0)))
    assert one is not None
    assert two is not None
    assert "line" not in one.caption
    assert "joined by the line" in two.caption
    assert one.caption.startswith("Score against size. Filled: ")
    assert "Filled" in two.caption


def test_labels_of_the_size_plot_do_not_overlap(full) -> None:
    runs = [sized(full, f"model{n}", 1000 + n, 0.001 * n) for n in range(9)]
    shown = cost(board(*runs))
    assert shown is not None
    places = re.findall(r'<text[^>]*y="([\d.]+)"[^>]*>model\d</text>', shown.picture)
    assert len(places) == 9
    heights = sorted(map(float, places))
    assert min(above - below for below, above in pairwise(heights)) >= 7  # points: their size


@pytest.mark.parametrize(
    "heights", [[0.0, 0.5, 1.0], [0.5] * 5, [0.9, 0.95, 1.0], [0.0, 0.0, 0.01]]
)
def test_labels_are_spread_in_order(heights: list[float]) -> None:
    spread_heights = spread(heights, 0.2)
    assert all(above - below >= 0.2 - 1e-12 for below, above in pairwise(spread_heights))
    assert min(spread_heights) >= -1e-12
    assert max(spread_heights) <= 1
    assert spread([0.1, 0.9], 0.2) == [0.1, 0.9]
