"""Several seeds of one setting: what they spread apart from what patients do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import FEWSHOT, request, run, squares
from squares import Place, place

from bench.api.board import BoardOptions
from bench.api.config import Grid
from bench.api.report import Result
from bench.board.scores import scores_of_images
from bench.render.grids import spread_over_seeds as told
from bench.runs.grid import expand

QUICK = ("--epochs", "1", "--input-px", "24")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


def _results(tmp_path: Path, *seeds: int) -> list[Result]:
    folder = squares(tmp_path / "squares")
    asked = [request(folder, protocol="fewshot", shots=1, draws=2, seed=seed) for seed in seeds]
    return [Result(each, run(each, tmp_path)) for each in asked]


def test_every_protocol_is_run_with_each_seed() -> None:
    grid = Grid.of({"protocol": "linear-probe", "dataset": "tnbc", "seed": (0, 3)})
    assert [cell.seed for cell in expand(grid).cells] == [0, 3]


def test_a_series_takes_one_seed() -> None:
    grid = Grid.of({"protocol": "robustness", "dataset": "tnbc", "seed": (0, 3)})
    assert expand(grid).problems == ["--seed takes one number for robustness."]


def test_the_spread_is_that_of_the_means_and_the_interval_that_of_averaged_images(
    tmp_path: Path,
) -> None:
    results = _results(tmp_path, 0, 1, 2)
    asked = BoardOptions(metric="dice", resamples=200)
    found = told(results, asked)
    assert found is not None
    plain: Any = found.plain[0]
    images = np.stack(
        [scores_of_images(each.record, "dice").mean(axis=0) for each in results if each.record]
    )
    assert plain["seeds"] == [0, 1, 2]
    assert plain["means"] == pytest.approx(images.mean(axis=1))
    assert plain["sd_over_seeds"] == pytest.approx(np.std(images.mean(axis=1), ddof=1))
    assert len(set(plain["means"])) > 1
    low, high = plain["interval_over_patients"]
    assert low < images.mean() < high
    assert found.sheets[0].rows[0][4] == "3"


def test_a_run_that_failed_counts_for_no_seed_and_one_alone_tells_nothing(tmp_path: Path) -> None:
    first, second = _results(tmp_path, 0, 1)
    failed = Result(second.request, reason="out of memory")
    assert told([first, failed], BoardOptions()) is None
    assert told([first], BoardOptions()) is None


def test_seeds_of_other_settings_are_not_put_together(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares")
    one = request(folder)
    other = request(folder, **FEWSHOT | {"shots": 2, "draws": 2, "seed": 1})
    results = [Result(each, run(each, tmp_path)) for each in (one, other)]
    assert told(results, BoardOptions()) is None


def test_the_command_tells_the_spread(here: Place) -> None:
    document = here.bench(
        *("run", "--dataset", "tnbc", "--backbone", "one-colour", "--seed", "0,1", "--json", *QUICK)
    ).json
    (spread,) = document["told"]["seeds"]["rows"]
    assert spread["seeds"] == [0, 1]
    assert len({run["run_id"] for run in document["runs"]}) == 2


def test_a_seed_that_is_no_number_is_refused(here: Place) -> None:
    assert here.bench("run", "--seed", "0,one").code == 2
