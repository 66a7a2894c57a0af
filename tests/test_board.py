"""Boards know which scores are better when lower."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench import board, display, registry
from bench.board import BoardOptions
from bench.record import Record, TrialResult

OPTIONS = BoardOptions(metric="hd95", resamples=50)
COUNTED = {  # what the families of the headline and of the distances count
    "contour_predicted": 8.0,
    "contour_true": 8.0,
    "near_predicted": 4.0,
    "near_true": 4.0,
    "near_predicted_rel": 4.0,
    "near_true_rel": 4.0,
    "foreground_predicted": 9.0,
    "foreground_true": 9.0,
    "tp": 5.0,
    "fp": 4.0,
    "fn": 4.0,
    "tn": 9.0,
    "surface_predicted": 8.0,
    "surface_true": 8.0,
    "surface_near": 8.0,
}


def record(backbone: str, *distances: float) -> Record:
    images = tuple(f"i{number}" for number in range(len(distances)))
    counts = {name: (each,) * len(images) for name, each in COUNTED.items()}
    trial = TrialResult({}, ("t",), 0.5, images, {**counts, "hd95_px": distances})
    spec = {
        "dataset": {"name": "x", "sha256": "0"},
        "backbone": {"name": backbone, "weights": ""},
        "head": {"name": "linear"},
        "protocol": {"name": "p", "folds": 0, "seed": 0},
        "recipe": {},
        "view": {"kind": "whole", "px": 32},
        "precision": "fp32",
        "ttt": None,
        "metrics_version": 1,
        "sources": "",
        "repeat": 0,
    }
    return Record(spec, {"head_parameters": 4}, {each: each for each in images}, (), (trial,))


def written(table: object) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_worst_image_of_a_distance_is_the_farthest() -> None:
    run = record("a", 3.0, 9.0, 1.0)
    assert board.score(run, "hd95", OPTIONS).worst == "i1"
    counts = dict(run.trials[0].counts) | {"tp": (5.0, 6.0, 1.0)}
    other = replace(run, trials=(replace(run.trials[0], counts=counts),))
    assert board.score(other, "dice", OPTIONS).worst == "i2"


@pytest.mark.parametrize(("metric", "order"), [("hd95", ["near", "far"]), ("nsd", ["far", "near"])])
def test_the_best_row_of_a_distance_is_the_nearest(metric: str, order: list[str]) -> None:
    runs = [record("far", 4.0, 8.0), record("near", 3.0, 2.0)]
    counts = dict(runs[1].trials[0].counts) | {"surface_near": (1.0, 1.0)}
    runs[1] = replace(runs[1], trials=(replace(runs[1].trials[0], counts=counts),))
    ranking = registry.get("leaderboards", "ranking")
    (block,) = ranking.rows(runs, replace(OPTIONS, metric=metric))
    assert [row.backbone for row in block.rows] == order


def test_tables_mark_the_scores_that_are_better_when_lower() -> None:
    runs = [record("a", 3.0, 9.0), record("b", 4.0, 8.0)]
    ranking = registry.get("leaderboards", "ranking")
    (block,) = ranking.rows(runs, OPTIONS)
    told = board.scores(runs[0], ["nsd", "hd95"], OPTIONS)
    gained = {name: board.difference(runs[0], runs[1], name) for name in told}
    for table in (
        display.run_table(runs[0], told),
        display.difference_table("a minus b", gained),
        display.board_table(block),
    ):
        shown = written(table)
        assert "hd95 ↓" in shown
        assert shown.count("↓") == 1


def test_scores_are_listed_family_by_family_with_the_headline_first() -> None:
    names = board.metric_names()
    assert names[0] == "dice"
    assert set(board.HEADLINE) <= set(names[: names.index("bf1_rel") + 1])
    families = [board.metric_of(name).name for name in names]
    assert len(set(families)) == sum(
        a != b for a, b in zip(["", *families], families, strict=False)
    )
