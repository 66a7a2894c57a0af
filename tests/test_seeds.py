"""Runs with several seeds: their spread, apart from the variation between patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import FEWSHOT, request, run, squares
from squares import Place, place

from bench.api.board import BoardOptions
from bench.api.config import Grid
from bench.api.report import Result, SeriesReport
from bench.board.scores import scores_of_images
from bench.render.seeds import report_seeds
from bench.runs.grid import expand


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


def results_of(tmp_path: Path, *seeds: int) -> list[Result]:
    folder = squares(tmp_path / "squares")
    requests = [request(folder, protocol="fewshot", shots=1, draws=2, seed=seed) for seed in seeds]
    return [Result(request, run(request, tmp_path)) for request in requests]


def test_a_protocol_is_run_with_each_seed_and_a_series_takes_one() -> None:
    grid = Grid.of({"protocol": "linear-probe", "dataset": "tnbc", "seed": (0, 3)})
    assert [cell.seed for cell in expand(grid).cells] == [0, 3]
    series = Grid.of({"protocol": "robustness", "dataset": "tnbc", "seed": (0, 3)})
    assert expand(series).problems == ["--seed takes one number for robustness."]


def test_the_spread_is_over_runs_and_the_interval_over_averaged_images(tmp_path: Path) -> None:
    results = results_of(tmp_path, 0, 1, 2)
    report = report_seeds(results, BoardOptions(metric="dice", resamples=200))
    row: Any = report.json[0]
    images = np.stack(
        [scores_of_images(each.record, "dice").mean(axis=0) for each in results if each.record]
    )
    assert row["seeds"] == [0, 1, 2]
    assert row["means"] == pytest.approx(images.mean(axis=1))
    assert row["sd_over_seeds"] == pytest.approx(np.std(images.mean(axis=1), ddof=1))
    assert len(set(row["means"])) > 1
    low, high = row["interval_over_patients"]
    assert low < images.mean() < high
    assert str(report.tables[0].rows[0][4]) == "3"


def test_one_successful_run_has_no_spread(tmp_path: Path) -> None:
    first, second = results_of(tmp_path, 0, 1)
    failed = Result(second.request, reason="out of memory")
    assert report_seeds([first, failed], BoardOptions()) == SeriesReport()


def test_seeds_of_different_settings_are_not_combined(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares")
    one = request(folder)
    other = request(folder, **FEWSHOT | {"shots": 2, "draws": 2, "seed": 1})
    results = [Result(each, run(each, tmp_path)) for each in (one, other)]
    assert report_seeds(results, BoardOptions()) == SeriesReport()


def test_bench_run_reports_the_spread(here: Place) -> None:
    words = ("--backbone", "one-colour", "--seed", "0,1", "--epochs", "1", "--input-px", "24")
    document = here.bench("run", "--dataset", "tnbc", *words, "--json").json
    (spread,) = document["told"]["seeds"]["rows"]
    assert spread["seeds"] == [0, 1]
    assert len({run["run_id"] for run in document["runs"]}) == 2
    assert here.bench("run", "--seed", "0,one").code == 2
