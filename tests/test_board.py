"""Leaderboards of scores for which lower is better, and the order of scores and blocks."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from tiny import altered, named

from bench import registry
from bench.api import board
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.report import Table
from bench.board import scores
from bench.render.boards import board_table
from bench.render.runs import difference_table, run_table
from bench.render.terminal import rich_table

OPTIONS = BoardOptions(metric="hd95", resamples=50)


@pytest.fixture
def run(full: Record) -> Record:
    """A run with three scored images, whose counts the tests change."""
    (trial,) = full.trials
    images = tuple(f"i{number}" for number in range(1, 4))
    counts = {name: values[:3] for name, values in trial.counts.items()}
    patients = {image: image for image in images}
    return replace(full, patients=patients, trials=(replace(trial, images=images, counts=counts),))


def changed(record: Record, backbone: str, **counts: tuple[float, ...]) -> Record:
    (trial,) = record.trials
    changed_trial = replace(trial, counts={**trial.counts, **counts})
    return replace(named(record, backbone), trials=(changed_trial,))


def text_of(table: Table) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(rich_table(table))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_worst_image_of_a_distance_has_the_largest_value(run: Record) -> None:
    other = changed(run, "a", hd95_px=(3.0, 9.0, 1.0), tp=(0.0, 9.0, 9.0))
    assert scores.score(other, "hd95", OPTIONS).worst == "i2"
    assert scores.score(other, "dice", OPTIONS).worst == "i1"


@pytest.mark.parametrize(
    ("metric", "order"), [("hd95", ["near", "far"]), ("dice", ["far", "near"])]
)
def test_the_best_row_of_a_distance_has_the_smallest_value(
    run: Record, metric: str, order: list[str]
) -> None:
    runs = [
        changed(run, "far", hd95_px=(4.0, 8.0, 8.0), tp=(9.0, 9.0, 9.0)),
        changed(run, "near", hd95_px=(3.0, 2.0, 8.0), tp=(9.0, 9.0, 0.0)),
    ]
    ranking = registry.get("leaderboards", "ranking")
    (block,) = ranking.rows(runs, replace(OPTIONS, metric=metric))
    assert [row.backbone for row in block.rows] == order


def test_tables_mark_scores_for_which_lower_is_better(run: Record) -> None:
    runs = [changed(run, name) for name in ("a", "b")]
    ranking = registry.get("leaderboards", "ranking")
    (block,) = ranking.rows(runs, OPTIONS)
    by_name = scores.scores(runs[0], ["nsd", "hd95"], OPTIONS)
    differences = {name: scores.difference(runs[0], runs[1], name) for name in by_name}
    for table in (
        run_table(runs[0], by_name),
        difference_table("a minus b", differences),
        board_table(block),
    ):
        shown = text_of(table)
        assert "hd95 ↓" in shown
        assert shown.count("↓") == 1


def test_scores_are_grouped_by_metric_with_the_headline_first() -> None:
    names = scores.metric_names()
    assert names[0] == "dice"
    assert set(board.HEADLINE) <= set(names[: names.index("bf1_rel") + 1])
    families = [scores.metric_of(name).name for name in names]
    assert len(set(families)) == sum(
        a != b for a, b in zip(["", *families], families, strict=False)
    )


def test_blocks_are_sorted_by_numbers_in_their_titles(run: Record) -> None:
    runs = [altered(run, protocol={"name": "fewshot", "shots": shots}) for shots in (10, 5, 1)]
    blocks = registry.get("leaderboards", "ranking").rows(runs, OPTIONS)
    assert [block.rows[0].record.spec.protocol.shots for block in blocks] == [1, 5, 10]
