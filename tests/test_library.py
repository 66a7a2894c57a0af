"""The bench from Python: the same runs and numbers as the command, as tables and figures."""

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
def asked(home: Path) -> dict[str, Any]:
    folder = str(squares(home / "squares"))
    quick = {"epochs": 2, "lr": 0.1, "input_px": SIDE, "resamples": 500, "cache": False}
    return {"dataset": folder, "head": "linear", "results": home / "results", **quick}


@pytest.fixture(scope="module")
def probed(asked: dict[str, Any]) -> Run:
    return bench.run("rgb", protocol="full", **asked)


@pytest.fixture(scope="module")
def fewshot(asked: dict[str, Any]) -> Run:
    return bench.run("rgb", protocol="fewshot", shots=2, draws=3, **asked)


def test_a_run_is_committed_and_found_again(probed: Run, asked: dict[str, Any]) -> None:
    assert (probed.folder / "record.json").is_file()
    assert not probed.cached
    again = bench.run("rgb", protocol="full", **asked)
    assert again.cached
    assert again.run_id == probed.run_id


def test_a_frame_has_a_row_for_each_image_and_its_mean_is_the_score(probed: Run) -> None:
    frame = probed.to_frame()
    assert list(frame["image"]) == probed.record.images
    assert list(frame["patient"]) == [probed.record.patients[each] for each in frame["image"]]
    assert set(probed.scores) <= set(frame.columns)
    for name in ("dice", "dice_macro", "bf1"):
        assert np.mean(frame[name].to_numpy()) == pytest.approx(probed.scores[name].summary.mean)


def test_a_few_shot_frame_has_a_row_for_each_image_of_each_draw(fewshot: Run) -> None:
    frame = fewshot.to_frame()
    assert len(frame) == 3 * len(fewshot.record.images)
    assert sorted(set(frame["draw"])) == [0, 1, 2]
    by_draw = [np.mean(own["dice"].to_numpy()) for _, own in frame.groupby("draw")]
    assert np.mean(by_draw) == pytest.approx(fewshot.scores["dice"].summary.mean)


def test_a_summary_holds_what_the_board_says(probed: Run) -> None:
    summary = probed.summary()
    score = scores.score(probed.record, "dice", probed.options)
    bounds = score.summary.interval
    assert bounds.low is not None
    told = summary.loc["dice", ["mean", "low", "high"]].tolist()
    assert told == [score.summary.mean, bounds.low, bounds.high]
    assert list(summary.index) == list(probed.scores)


def test_a_plot_shows_each_image_once(probed: Run, fewshot: Run) -> None:
    for each in (probed, fewshot):
        figure = each.plot()
        assert isinstance(figure, Figure)
        dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        drawn = np.concatenate([np.asarray(line.get_xdata(), float) for line in dots])
        own = [np.mean(own["dice"].to_numpy()) for _, own in each.to_frame().groupby("image")]
        np.testing.assert_allclose(sorted(drawn), sorted(own))
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_many_patients_are_drawn_without_their_names(probed: Run, monkeypatch) -> None:
    monkeypatch.setattr("bench.figures.curves.MOST_NAMED", 2)
    assert probed.plot("bf1").axes[0].get_yticklabels() == []


def test_a_notebook_shows_title_scores_and_marks_escaped(asked: dict[str, Any]) -> None:
    smoke = bench.run("rgb", protocol="full", limit=2, **asked)
    html = smoke._repr_html_()
    assert "<b>untrained, smoke</b>" in html or "<b>smoke</b>" in html
    assert "dice_macro" in html
    assert smoke.run_id in html


def test_two_runs_compare_as_the_command_compares_them(
    probed: Run, asked: dict[str, Any], home: Path
) -> None:
    other = bench.run("rgb", protocol="full", **{**asked, "head": "light"})
    with pytest.raises(BenchError, match="may not be compared"):
        bench.compare(probed, other)
    found = bench.compare(probed, other, vary="head")
    expected = scores.difference(probed.record, other.record, "dice")
    assert found.loc["dice", "difference"] == expected.mean
    assert found.loc["dice", "p"] == expected.p
    assert found.attrs["notes"]
    by_id = bench.compare(probed.run_id, other, vary="head", results=home / "results")
    pd.testing.assert_frame_equal(by_id, found)


def test_names_that_mean_several_runs_are_narrowed_as_in_the_command(
    probed: Run, asked: dict[str, Any], home: Path
) -> None:
    for shots in (2, 3):
        for lr in (0.1, 0.2):
            bench.run("rgb", protocol="fewshot", shots=shots, **{**asked, "lr": lr})
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
    assert [n for n, own in ours.items() if own.kind is not own.KEYWORD_ONLY] == ["a", "b"]


def test_a_leaderboard_has_a_row_for_each_run(probed: Run, home: Path) -> None:
    frame = bench.leaderboard(home / "results", protocol="full", head="linear")
    (row,) = frame.to_dict("records")
    assert row["run_id"] == probed.run_id
    assert row["mean"] == row["dice"] == probed.scores["dice"].summary.mean
    assert row["low"] < row["mean"] < row["high"]
    assert bench.leaderboard(home / "nothing").empty


def test_a_damaged_run_is_warned_of(tmp_path: Path, probed: Run) -> None:
    broken = Store(tmp_path).folder("0123456789abcdef")
    broken.mkdir(parents=True)
    (broken / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="excluded"):
        assert bench.leaderboard(tmp_path).empty


@pytest.mark.parametrize(
    ("changes", "told"),
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
def test_what_cannot_be_asked_says_its_cure(
    asked: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BenchError, match=re.escape(told)):
        bench.run(**{**asked, **changes})


def test_the_places_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, home: Path, probed: Run
) -> None:
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    assert probed.run_id in set(bench.leaderboard()["run_id"])


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
