"""The commands on committed runs, as a user meets them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from small_runs import FEWSHOT, altered, commit, named, request, run, squares, worse

from bench.api.record import Record
from bench.board.scores import scores_of_images
from bench.cli.main import main
from bench.store.results import Store


class Said(NamedTuple):
    """What a command said: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("home")
    return run(request(squares(home / "squares")), home).record


@pytest.fixture(scope="module")
def few(full, tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("home")
    return run(request(squares(home / "squares"), **FEWSHOT), home).record


@pytest.fixture
def home(tmp_path, full, few) -> Path:
    """Three runs: two backbones, one of them with few shots too."""
    for record in (full, worse(named(full, "poor"), 0.5), few):
        commit(record, tmp_path)
    return tmp_path


@pytest.fixture
def bench(home, monkeypatch) -> Callable[..., Said]:
    def call(*words: str) -> Said:
        monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return Said(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    return call


def test_a_board_comes_in_one_form_of_four(bench):
    assert len(json.loads(bench("leaderboard", "--json").out)["groups"]) == 2
    assert {e["metric"] for e in csv.DictReader(io.StringIO(bench("leaderboard", "--csv").out))}
    assert bench("leaderboard", "--latex").out.count(r"\begin{tabular}") == 2
    assert bench("leaderboard", "--markdown").out.startswith("### squares")
    both = bench("leaderboard", "--csv", "--latex")
    assert both.code == 2
    assert "one output format" in both.err


def test_a_picture_of_a_board_is_an_svg(bench, tmp_path):
    told = bench("leaderboard", "--json", "--svg", str(tmp_path / "board.txt"))
    assert told.code == 2
    assert list(json.loads(told.out)) == ["error"]
    assert "Use a name that ends in .svg" in " ".join(told.err.split())
    assert not (tmp_path / "board.txt").exists()


def test_filters_take_several_names_and_metrics(bench):
    told = json.loads(
        bench("leaderboard", "--protocol", "full,fewshot", "--metric", "bf1,iou", "--json").out
    )
    assert [list(row["scores"]) for group in told["groups"] for row in group["rows"]] == [
        ["bf1", "iou"]
    ] * 3
    both = bench("leaderboard", "--head", "linear", "--protocol", "full", "--json")
    assert len(json.loads(both.out)["groups"]) == 1


TYPED_WRONG = {
    "a data set": (("--dataset", "sqares"), "Did you mean squares? Choose from squares"),
    "one of several": (("--dataset", "squares,kumar"), "--dataset kumar: no run matches"),
    "a protocol": (("--protocol", "ful"), "Did you mean full? Choose from fewshot, full"),
    "heads": (("--head", "x,light"), "--head x: no run matches. Choose from linear"),
    "a reference": (("--reference", "por"), "Did you mean poor? Choose from poor, rgb"),
    "a folder that is not there": (("--dataset", "./nowhere"), "There is no folder"),
    "a folder without a manifest": (("--dataset", "."), "bench datasets make"),
}


@pytest.mark.parametrize("case", TYPED_WRONG)
@pytest.mark.parametrize("command", [("leaderboard",), ("report",), ("compare", "rgb", "poor")])
def test_a_filter_that_no_run_is_of_names_those_that_there_are(
    bench, home, monkeypatch, case, command
):
    monkeypatch.chdir(home)
    words, told = TYPED_WRONG[case]
    if "--reference" in words and command != ("leaderboard",):
        return
    said = bench(*command, *words)
    assert said.code == 2
    assert told in said.err
    assert not (home / "report").exists()


def test_a_store_without_runs_has_no_names_to_choose_from(bench, home):
    told = bench("leaderboard", "--dataset", "kumarr", "--results", str(home / "none"))
    assert told.code == 0
    assert "no runs to show" in told.out


def test_a_filter_of_runs_that_there_are_but_not_together_shows_none(bench):
    told = bench("leaderboard", "--protocol", "fewshot", "--reference", "poor")
    assert told.code == 2  # poor ran, but not with few shots
    assert "Choose from rgb" in told.err


def test_a_folder_is_told_by_what_it_holds(bench, home, monkeypatch):
    squares(home / "sets" / "squares")
    squares(home / "others" / "squares", seed=5)
    monkeypatch.chdir(home / "sets")
    for place in ("./squares", "squares", str(home / "sets" / "squares"), "../sets/squares/"):
        board = bench("leaderboard", "--dataset", place, "--json")
        assert len(json.loads(board.out)["groups"]) == 2
        found = bench("compare", "rgb", "poor", "--dataset", place, "--json")
        assert json.loads(found.out)["n_images"] == 7
    other = bench("leaderboard", "--dataset", str(home / "others" / "squares"))
    assert other.code == 2
    assert "other contents of that name. `--dataset squares`" in other.err
    written = bench("report", "--dataset", "./squares", "--out", str(home / "pages"), "--json")
    assert json.loads(written.out)["runs"] == 3


def test_shots_tell_few_shot_runs_apart(bench, home, few):
    commit(altered(few, protocol={"shots": 5}), home)
    for record in (few, altered(few, protocol={"shots": 5})):
        commit(named(record, "poor"), home)
    several = bench("compare", "rgb", "poor", "--protocol", "fewshot")
    assert several.code == 2
    assert "2 choices of runs match rgb, poor" in several.err
    assert "shots" in several.err
    found = bench("compare", "rgb", "poor", "--shots", "5", "--json")
    assert json.loads(found.out)["n_images"] == 7
    wrong = bench("compare", "rgb", "poor", "--shots", "7")
    assert wrong.code == 2
    assert "--shots 7: no run matches. Choose from 2, 5" in wrong.err


def test_rows_of_what_varies_stand_in_one_block(bench):
    told = json.loads(bench("leaderboard", "--vary", "backbone,protocol", "--json").out)
    (group,) = told["groups"]
    assert group["protocol"] is None
    assert {row["protocol"]["name"] for row in group["rows"]} == {"full", "fewshot"}
    shown = bench("leaderboard", "--vary", "backbone,protocol").out
    assert "fewshot" in shown


def test_the_json_of_a_board_keeps_its_contract(bench, full, few):
    """The fields that docs/README.md documents for scripts."""
    document = json.loads(bench("leaderboard", "--json").out)
    assert set(document) == {"groups", "failed", "damaged", "lacking"}
    by_protocol = {group["protocol"]["name"]: group for group in document["groups"]}
    assert set(by_protocol) == {"full", "fewshot"}
    assert by_protocol["fewshot"]["protocol"]["shots"] == 2
    group = by_protocol["full"]
    assert (group["dataset"], group["head"]) == ("squares", "linear")
    assert group["recipe"]["epochs"] == 2
    assert [row["backbone"] for row in group["rows"]] == ["rgb", "poor"]
    best = group["rows"][0]
    assert best["run_id"] == full.run_id
    assert set(best["scores"]) == {"dice", "dice_macro", "bf1"}
    score = best["scores"]["dice"]
    assert score["mean"] == pytest.approx(float(scores_of_images(full, "dice").mean()))
    assert score["ci_low"] <= score["mean"] <= score["ci_high"]


def test_what_was_not_run_is_said(bench):
    assert "not run: poor" in bench("leaderboard").out
    groups = json.loads(bench("leaderboard", "--json").out)["groups"]
    assert [group["not_run"] for group in groups if group["not_run"]] == [["poor"]]


def test_a_run_without_the_counts_of_a_score_is_told(bench, home, full):
    trial = full.trials[0]
    counts = {name: own for name, own in trial.counts.items() if name in ("tp", "fp", "fn", "tn")}
    old = replace(named(full, "old"), trials=(replace(trial, counts=counts),))
    commit(old, home)
    told = bench("leaderboard", "--json")
    assert told.code == 0
    assert [old.run_id in line for line in json.loads(told.out)["lacking"]] == [True]
    assert old.run_id in told.err


def test_runs_that_later_ones_replace_are_counted(bench, home, full):
    assert "replaced" not in bench("leaderboard").err
    commit(altered(full, sources="another version"), home)
    assert "1 run(s) were replaced by later runs" in bench("leaderboard").err


def test_the_difference_to_a_reference_stands_beside_each_row(bench):
    assert "minus poor" not in bench("leaderboard").out
    told = bench("leaderboard", "--reference", "poor", "--protocol", "full")
    assert (told.code, told.out.count("minus poor")) == (0, 1)
    groups = json.loads(bench("leaderboard", "--reference", "poor", "--json").out)["groups"]
    rows = groups[1]["rows"]
    assert [row["minus_reference"] is None for row in rows] == [False, True]


def test_two_runs_are_compared_score_by_score_and_image_by_image(bench, full):
    told = bench("compare", "rgb", "poor", "--json", "--worst", "3")
    found = json.loads(told.out)
    assert found["a"]["run_id"] == full.run_id
    assert found["differences"]["dice"]["mean"] > 0
    assert found["differences"]["dice"]["ci_low"] is not None
    assert (found["n_images"], found["n_patients"], len(found["images"])) == (7, 7, 3)
    shown = bench("compare", full.run_id[:8], "poor", "--worst", "2").out
    assert "7 images of 7 patients" in shown
    assert all(each["image"] in shown for each in found["images"][:2])


COMPLAINTS = {
    "a word that does not vary": (("leaderboard", "--vary", "seed"), "backbone"),
    "an unknown second metric": (("leaderboard", "--metric", "dice,x"), "'x'"),
    "no metric": (("leaderboard", "--metric", ","), "--metric ',' has an empty word"),
    "nobody to compare": (("compare", "rgb", "nobody"), "nobody"),
    "other protocols": (("compare", "poor", "rgb", "--protocol", "fewshot"), "'poor'"),
    "no masks": (("explain", "rgb", "poor", "--out", "x.png"), "--save-masks"),
    "an unknown run to export": (("export", "ffff", "--out", "x.zip"), "ffff"),
    "nothing to merge": (("merge", "nowhere.zip"), "nowhere.zip"),
    "a table of arms": (("reproduce", "--table", "2"), "bench study"),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_a_wrong_request_ends_with_2_and_names_the_cure(bench, home, monkeypatch, case):
    monkeypatch.chdir(home)
    words, cure = COMPLAINTS[case]
    told = bench(*words)
    assert told.code == 2
    assert cure in told.err
    assert not list(home.glob("x.*"))


def test_runs_go_from_one_machine_to_another(bench, home, full):
    told = bench("export", full.run_id[:6], "--out", str(home / "b.zip"), "--json")
    assert json.loads(told.out)["runs"] == [full.run_id]
    merged = bench("merge", str(home / "b.zip"), "--results", str(home / "new"), "--json")
    assert json.loads(merged.out)["added"] == [full.run_id]
    again = bench("merge", str(home / "b.zip"), "--results", str(home / "new"))
    assert again.code == 0
    assert "1 already there" in again.out
    assert "3 runs in" in bench("export", "--out", str(home / "all")).out


def test_a_refused_run_is_told_and_the_exit_code_is_1(bench, home, full):
    source = home / "other"
    Store(source).commit(full, {})
    path = Store(source).folder(full.run_id) / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"rgb"', b'"uni"'))
    told = bench("merge", str(source), "--results", str(home / "new"), "--json")
    assert told.code == 1
    assert list(json.loads(told.out)["refused"]) == [full.run_id]
    assert full.run_id in told.err


@pytest.mark.parametrize(
    "words",
    [
        ["leaderboard", "--csv"],
        ["leaderboard", "--show-published"],
        ["compare", "rgb", "poor"],
        ["export", "--out", "bundle.zip"],
        ["merge", "results", "--results", "new"],
    ],
    ids=" ".join,
)
def test_looking_at_runs_imports_no_torch(home, words):
    code = f"import sys; from bench.cli.main import app; app({words!r}, standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=home, check=False
    )
    assert done.returncode == 0, done.stderr
