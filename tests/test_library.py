"""The Python interface: the runs and numbers of the command line, as tables and figures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from tiny import SIDE, squares

import bench
from bench.board import scores
from bench.errors import BenchError
from bench.library import Run
from bench.store.results import Store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def options(home: Path) -> dict[str, Any]:
    folder = str(squares(home / "squares"))
    quick = {"epochs": 2, "lr": 0.1, "input_px": SIDE, "resamples": 500, "cache": False}
    return {"dataset": folder, "head": "linear", "results": home / "results", **quick}


@pytest.fixture(scope="module")
def probed(options: dict[str, Any]) -> Run:
    return bench.run("rgb", protocol="full", **options)


@pytest.fixture(scope="module")
def fewshot(options: dict[str, Any]) -> Run:
    return bench.run("rgb", protocol="fewshot", shots=2, draws=3, **options)


def test_a_run_is_committed_and_cached(probed: Run, options: dict[str, Any]) -> None:
    assert (probed.folder / "record.json").is_file()
    assert not probed.cached
    again = bench.run("rgb", protocol="full", **options)
    assert again.cached
    assert again.run_id == probed.run_id


def test_a_frame_has_a_row_for_each_image_and_its_mean_is_the_score(
    probed: Run, fewshot: Run
) -> None:
    frame = probed.to_frame()
    assert list(frame["image"]) == probed.record.images
    assert list(frame["patient"]) == [probed.record.patients[image] for image in frame["image"]]
    assert set(probed.scores) <= set(frame.columns)
    for name in ("dice", "dice_macro", "bf1"):
        assert np.mean(frame[name].to_numpy()) == pytest.approx(probed.scores[name].summary.mean)
    draws = fewshot.to_frame()
    assert len(draws) == 3 * len(fewshot.record.images)
    assert sorted(set(draws["draw"])) == [0, 1, 2]
    assert np.mean(draws["dice"].to_numpy()) == pytest.approx(fewshot.scores["dice"].summary.mean)


def test_a_notebook_shows_the_scores_of_a_run(probed: Run) -> None:
    html = probed._repr_html_()
    assert "dice_macro" in html
    assert probed.run_id in html


def test_a_summary_has_the_scores_of_the_board(probed: Run) -> None:
    summary = probed.summary()
    score = scores.score(probed.record, "dice", probed.options)
    bounds = score.summary.interval
    assert bounds.low is not None
    row = summary.loc["dice", ["mean", "low", "high"]].tolist()
    assert row == [score.summary.mean, bounds.low, bounds.high]
    assert list(summary.index) == list(probed.scores)


def test_a_plot_shows_each_image_once(probed: Run, fewshot: Run, monkeypatch) -> None:
    for run in (probed, fewshot):
        figure = run.plot()
        assert isinstance(figure, Figure)
        dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        drawn = np.concatenate([np.asarray(line.get_xdata(), float) for line in dots])
        means = [np.mean(rows["dice"].to_numpy()) for _, rows in run.to_frame().groupby("image")]
        np.testing.assert_allclose(sorted(drawn), sorted(means))
        assert figure._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setattr("bench.figures.curves.MOST_NAMED", 2)
    assert probed.plot("bf1").axes[0].get_yticklabels() == []


def test_two_runs_compare_as_the_command_compares_them(
    probed: Run, options: dict[str, Any], home: Path
) -> None:
    other = bench.run("rgb", protocol="full", **{**options, "head": "light"})
    with pytest.raises(BenchError, match="may not be compared"):
        bench.compare(probed, other)
    compared = bench.compare(probed, other, vary="head")
    expected = scores.difference(probed.record, other.record, "dice")
    assert compared.loc["dice", "difference"] == expected.mean
    assert compared.loc["dice", "p"] == expected.p
    assert compared.attrs["notes"]
    by_id = bench.compare(probed.run_id, other, vary="head", results=home / "results")
    pd.testing.assert_frame_equal(by_id, compared)


def test_names_that_mean_several_runs_are_narrowed_as_in_the_command(
    probed: Run, options: dict[str, Any], home: Path
) -> None:
    for shots in (2, 3):
        for lr in (0.1, 0.2):
            bench.run("rgb", protocol="fewshot", shots=shots, **{**options, "lr": lr})
    places: dict[str, Any] = {"results": home / "results"}
    varied = {"vary": "backbone,recipe", **places}
    narrowed: list[dict[str, Any]] = [
        {"protocol": "fewshot", "shots": 3},
        {"shots": 3, "dataset": home / "squares"},
    ]
    with pytest.raises(BenchError, match="narrow the choice by --protocol or --shots"):
        bench.compare("rgb", "rgb", **varied)
    for filters in narrowed:
        with pytest.raises(BenchError, match="2 choices"):  # the two orders of the same pair
            bench.compare("rgb", "rgb", **filters, **varied)
    with pytest.raises(BenchError, match="Did you mean fewshot"):
        bench.compare("rgb", "rgb", protocol="fewshots", **places)
    with pytest.raises(BenchError, match="Did you mean squares"):
        bench.leaderboard(**places, dataset="square")
    assert len(bench.leaderboard(**places, dataset=home / "squares", protocol="full")) >= 1


def test_compare_takes_the_options_of_the_command() -> None:
    import inspect

    from bench.cli import board

    ours = inspect.signature(bench.compare).parameters
    theirs = set(inspect.signature(board.compare).parameters)
    assert theirs - set(ours) == {"worst", "as_json"}
    assert set(ours) <= theirs
    assert [name for name, p in ours.items() if p.kind is not p.KEYWORD_ONLY] == ["a", "b"]


def test_a_leaderboard_has_a_row_for_each_run(probed: Run, home: Path, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    frame = bench.leaderboard(protocol="full", head="linear")
    (row,) = frame.to_dict("records")
    assert row["run_id"] == probed.run_id
    assert row["mean"] == row["dice"] == probed.scores["dice"].summary.mean
    assert row["low"] < row["mean"] < row["high"]
    assert bench.leaderboard(home / "nothing").empty


def test_a_damaged_run_raises_a_warning(tmp_path: Path, probed: Run) -> None:
    broken = Store(tmp_path).folder("0123456789abcdef")
    broken.mkdir(parents=True)
    (broken / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="excluded"):
        assert bench.leaderboard(tmp_path).empty


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "rbg"}, "unknown backbone 'rbg'. Did you mean rgb"),
        ({"protocol": "full", "shots": 3}, "'full' takes no --shots; --protocol fewshot does"),
        ({"protocol": "transfer"}, "series of runs: `bench run --protocol transfer`"),
        ({"ci": "wide"}, "'wide' is not one of expanded"),
        ({"weights": "old"}, "--checkpoint"),
        ({"shot": 3}, "no option shot. Options: backbone, dataset"),
        ({"epochs": "3"}, "epochs = '3' is not an integer"),
        ({"lr": [0.1, 0.2]}, "lr = [0.1, 0.2] is not a number."),
        ({"resamples": 1}, "use 100 or more"),
        ({"ttt_option": {"steps": 1}}, "add --ttt"),
    ],
)
def test_invalid_options_raise_with_a_fix(
    options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=re.escape(message)):
        bench.run(**{**options, **changes})


def test_the_functions_stay_functions_and_importing_is_quick() -> None:
    script = """
import sys
import bench
assert "torch" not in sys.modules and "numpy" not in sys.modules and "pandas" not in sys.modules
assert {"run", "compare", "leaderboard"} <= set(dir(bench))
import bench.runs.execute, bench.board.compare, bench.cli.run, bench.report.pages
from bench import registry
[registry.names(kind) for kind in registry.KINDS]
assert callable(bench.run) and callable(bench.compare) and callable(bench.leaderboard)
assert not hasattr(bench, "nothing")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
