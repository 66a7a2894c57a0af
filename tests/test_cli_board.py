"""The commands that show, compare, export and merge committed runs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import altered, commit, named, squares, worse

from bench.board.scores import scores_of_images
from bench.store.results import Store

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path, full, few) -> Path:
    """A store with three runs: two backbones, one of them with few shots too."""
    for record in (full, worse(named(full, "poor"), 0.5), few):
        commit(record, tmp_path)
    return tmp_path


@pytest.fixture
def bench(home, command, monkeypatch) -> Bench:
    """Return a function that runs a command on the store: exit code and both outputs."""
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    monkeypatch.setenv("COLUMNS", "200")
    return command


def board_of(bench: Bench, *words: str) -> dict:
    code, out, _ = bench("leaderboard", *words, "--json")
    assert code == 0
    return json.loads(out)


# ---- leaderboards ----------------------------------------------------------------------------


def test_a_board_has_one_output_format(bench, tmp_path):
    assert {e["metric"] for e in csv.DictReader(io.StringIO(bench("leaderboard", "--csv")[1]))}
    assert bench("leaderboard", "--latex")[1].count(r"\begin{tabular}") == 2
    assert bench("leaderboard", "--markdown")[1].startswith("### squares")
    code, _, err = bench("leaderboard", "--csv", "--latex")
    assert code == 2
    assert "one output format" in err
    code, out, err = bench("leaderboard", "--json", "--svg", str(tmp_path / "board.txt"))
    assert code == 2
    assert list(json.loads(out)) == ["error"]
    assert "Use a name that ends in .svg" in " ".join(err.split())
    assert not (tmp_path / "board.txt").exists()


def test_the_json_of_a_board_has_the_documented_fields(bench, full):
    """The fields that docs/README.md documents for scripts."""
    document = board_of(bench)
    assert set(document) == {"groups", "failed", "damaged", "lacking"}
    by_protocol = {group["protocol"]["name"]: group for group in document["groups"]}
    assert set(by_protocol) == {"full", "fewshot"}
    assert by_protocol["fewshot"]["protocol"]["shots"] == 2
    assert by_protocol["fewshot"]["not_run"] == ["poor"]
    group = by_protocol["full"]
    assert (group["dataset"], group["head"], group["not_run"]) == ("squares", "linear", [])
    assert group["recipe"]["epochs"] == 2
    assert [row["backbone"] for row in group["rows"]] == ["rgb", "poor"]
    best = group["rows"][0]
    assert best["run_id"] == full.run_id
    assert set(best["scores"]) == {"dice", "dice_macro", "ap", "bf1"}
    score = best["scores"]["dice"]
    assert score["mean"] == pytest.approx(float(scores_of_images(full, "dice").mean()))
    assert score["ci_low"] <= score["mean"] <= score["ci_high"]
    assert "not run: poor" in bench("leaderboard")[1]


def test_filters_take_several_names_and_metrics(bench):
    groups = board_of(bench, "--protocol", "full,fewshot", "--metric", "bf1,iou")["groups"]
    rows = [row for group in groups for row in group["rows"]]
    assert [list(row["scores"]) for row in rows] == [["bf1", "iou"]] * 3
    assert len(board_of(bench, "--head", "linear", "--protocol", "full")["groups"]) == 1


def test_rows_can_differ_in_several_settings(bench):
    (group,) = board_of(bench, "--vary", "backbone,protocol")["groups"]
    assert group["protocol"] is None
    assert {row["protocol"]["name"] for row in group["rows"]} == {"full", "fewshot"}
    assert "fewshot" in bench("leaderboard", "--vary", "backbone,protocol")[1]


def test_differences_to_a_reference_are_shown(bench):
    assert "minus poor" not in bench("leaderboard")[1]
    code, out, _ = bench("leaderboard", "--reference", "poor", "--protocol", "full")
    assert (code, out.count("minus poor")) == (0, 1)
    rows = board_of(bench, "--reference", "poor")["groups"][1]["rows"]
    assert [row["minus_reference"] is None for row in rows] == [False, True]


def test_incomplete_and_replaced_runs_are_reported(bench, home, full):
    assert "replaced" not in bench("leaderboard")[2]
    trial = full.trials[0]
    counts = {name: trial.counts[name] for name in ("tp", "fp", "fn", "tn")}
    old = replace(named(full, "old"), trials=(replace(trial, counts=counts),))
    commit(old, home)
    commit(altered(full, sources="another version"), home)
    code, out, err = bench("leaderboard", "--json")
    assert code == 0
    assert [old.run_id in line for line in json.loads(out)["lacking"]] == [True]
    assert old.run_id in err
    assert "1 run(s) were replaced by later runs" in bench("leaderboard")[2]


WRONG_FILTERS = [
    (("--dataset", "sqares"), "Did you mean squares? Choose from squares"),
    (("--dataset", "squares,kumar"), "--dataset kumar: no run matches"),
    (("--protocol", "ful"), "Did you mean full? Choose from fewshot, full"),
    (("--head", "x,light"), "--head x: no run matches. Choose from linear"),
    (("--dataset", "./nowhere"), "There is no folder"),
    (("--dataset", "."), "bench datasets make"),
]


@pytest.mark.parametrize("subcommand", [("leaderboard",), ("report",), ("compare", "rgb", "poor")])
def test_a_filter_without_matches_lists_the_names_to_choose_from(
    bench, home, monkeypatch, subcommand
):
    monkeypatch.chdir(home)
    for words, message in WRONG_FILTERS:
        code, _, err = bench(*subcommand, *words)
        assert code == 2
        assert message in err
    assert not (home / "report").exists()


def test_a_reference_must_have_a_row_on_the_board(bench, home):
    code, _, err = bench("leaderboard", "--reference", "por")
    assert code == 2
    assert "Did you mean poor? Choose from poor, rgb" in err
    code, _, err = bench("leaderboard", "--protocol", "fewshot", "--reference", "poor")
    assert code == 2  # poor has a run, but not with few shots
    assert "Choose from rgb" in err
    code, out, _ = bench("leaderboard", "--dataset", "kumarr", "--results", str(home / "none"))
    assert code == 0
    assert "no runs to show" in out


def test_a_folder_is_identified_by_its_content(bench, home, monkeypatch):
    squares(home / "sets" / "squares")
    squares(home / "others" / "squares", seed=5)
    monkeypatch.chdir(home / "sets")
    for folder in ("./squares", "squares", str(home / "sets" / "squares"), "../sets/squares/"):
        assert len(board_of(bench, "--dataset", folder)["groups"]) == 2
    _, out, _ = bench("compare", "rgb", "poor", "--dataset", "./squares", "--json")
    assert json.loads(out)["n_images"] == 7
    _, out, _ = bench("report", "--dataset", "./squares", "--out", str(home / "pages"), "--json")
    assert json.loads(out)["runs"] == 3
    code, _, err = bench("leaderboard", "--dataset", str(home / "others" / "squares"))
    assert code == 2
    assert "other contents of that name. `--dataset squares`" in err


# ---- other commands --------------------------------------------------------------------------


def test_two_runs_are_compared_score_by_score_and_image_by_image(bench, full):
    result = json.loads(bench("compare", "rgb", "poor", "--json", "--worst", "3")[1])
    assert result["a"]["run_id"] == full.run_id
    assert result["differences"]["dice"]["mean"] > 0
    assert result["differences"]["dice"]["ci_low"] is not None
    assert (result["n_images"], result["n_patients"], len(result["images"])) == (7, 7, 3)
    out = bench("compare", full.run_id[:8], "poor", "--worst", "2")[1]
    assert "7 images of 7 patients" in out
    assert all(image["image"] in out for image in result["images"][:2])


def test_the_number_of_shots_selects_few_shot_runs(bench, home, few):
    other = altered(few, protocol={"shots": 5})
    for record in (other, named(few, "poor"), named(other, "poor")):
        commit(record, home)
    code, _, err = bench("compare", "rgb", "poor", "--protocol", "fewshot")
    assert code == 2
    assert "2 choices of runs match rgb, poor" in err
    assert "shots" in err
    _, out, _ = bench("compare", "rgb", "poor", "--shots", "5", "--json")
    assert json.loads(out)["n_images"] == 7
    code, _, err = bench("compare", "rgb", "poor", "--shots", "7")
    assert code == 2
    assert "--shots 7: no run matches. Choose from 2, 5" in err


def test_the_error_for_an_invalid_command_contains_the_fix(bench, home, monkeypatch):
    monkeypatch.chdir(home)
    for words, fix in [
        (("leaderboard", "--vary", "seed"), "backbone"),
        (("leaderboard", "--metric", "dice,x"), "'x'"),
        (("leaderboard", "--metric", ","), "--metric ',' has an empty word"),
        (("compare", "rgb", "unknown"), "unknown"),
        (("compare", "poor", "rgb", "--protocol", "fewshot"), "'poor'"),
        (("explain", "rgb", "poor", "--out", "x.png"), "--save-masks"),
        (("export", "ffff", "--out", "x.zip"), "ffff"),
        (("merge", "nowhere.zip"), "nowhere.zip"),
        (("reproduce", "--table", "2"), "bench study"),
    ]:
        code, _, err = bench(*words)
        assert code == 2
        assert fix in err
    assert not list(home.glob("x.*"))


def test_runs_are_exported_and_merged(bench, home, full):
    bundle, new = str(home / "b.zip"), str(home / "new")
    _, out, _ = bench("export", full.run_id[:6], "--out", bundle, "--json")
    assert json.loads(out)["runs"] == [full.run_id]
    _, out, _ = bench("merge", bundle, "--results", new, "--json")
    assert json.loads(out)["added"] == [full.run_id]
    code, out, _ = bench("merge", bundle, "--results", new)
    assert code == 0
    assert "1 already there" in out
    assert "3 runs in" in bench("export", "--out", str(home / "all"))[1]


def test_stored_runs_are_listed_with_their_state(bench, home, full):
    store = Store(home / "results")
    store.fail("f" * 16, full.spec, "no memory")
    (store.work("e" * 16)).mkdir()
    commit(replace(named(full, "smoked"), flags=("smoke",)), home)
    damaged = store.folder("d" * 16) / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    (store.folder(full.run_id) / "masks").mkdir()
    runs = json.loads(bench("runs", "list", "--json")[1])["runs"]
    states = {run["run_id"]: run["state"] for run in runs}
    assert [states[letter * 16] for letter in "fed"] == ["failed", "unfinished", "damaged"]
    assert sorted(states.values())[:4] == ["committed"] * 4
    (first,) = [run for run in runs if run["run_id"] == full.run_id]
    assert first == {
        **first,
        "backbone": "rgb",
        "dataset": "squares",
        "head": "linear",
        "masks": True,
        "date": "2026-01-01T00:00:00+00:00",
        "protocol": "full (official split)",
        "recipe": "paper, epochs 2, lr 0.1",
        "view": "whole, 32 px",
        "flags": ["not converged"],
    }
    assert {run["reason"] for run in runs} == {"", "no memory"}
    assert ["smoke"] in [run["flags"] for run in runs]
    few_shot = json.loads(bench("runs", "list", "--protocol", "fewshot", "--json")[1])["runs"]
    assert [run["backbone"] for run in few_shot] == ["rgb"]
    code, out, _ = bench("runs", "list")
    assert code == 0
    assert all(run["run_id"][:8] in out for run in runs)
    assert "Did you mean full" in bench("runs", "list", "--protocol", "ful")[2]
    assert "contains no runs" in bench("runs", "list", "--results", str(home / "none"))[1]


def test_runs_are_deleted_by_id_name_and_filter(bench, home, full, few):
    store = Store(home / "results")
    store.fail("f" * 16, full.spec, "no memory")
    (store.folder(full.run_id) / "masks").mkdir()

    def deleted(*words: str) -> list[str]:
        return json.loads(bench("runs", "delete", *words, "--yes", "--json")[1])["deleted"]

    assert deleted("poor") == [worse(named(full, "poor"), 0.5).run_id]
    assert deleted("rgb", "--protocol", "fewshot") == [few.run_id]
    assert deleted("--failed") == ["f" * 16]
    assert deleted(full.run_id[:8]) == [full.run_id]
    assert [path for path in (home / "results").rglob("*") if path.is_file()] == []
    assert json.loads(bench("runs", "list", "--json")[1]) == {"runs": []}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("delete",), "select what to delete"),
        (("delete", "porr", "--yes"), "no run 'porr' here. Did you mean poor?"),
        (("delete", "poor", "--json"), "Add --yes"),
        (("delete", "poor", "--head", "light", "--yes"), "--head light: no run matches"),
        (("delete", "--failed", "--yes"), "contains no such run"),
    ],
    ids=str,
)
def test_nothing_is_deleted_by_an_invalid_command(bench, home, words, message):
    code, _, err = bench("runs", *words)
    assert code == 2
    assert message in " ".join(err.split())
    assert len(list((home / "results").rglob("record.json"))) == 3


def test_a_deletion_is_confirmed(bench, home, monkeypatch):
    for answer, left in (("n\n", 3), ("y\n", 2)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        bench("runs", "delete", "poor")
        assert len(list((home / "results").rglob("record.json"))) == left


def test_merging_a_changed_record_is_refused_with_exit_code_1(bench, home, full):
    source = Store(home / "other")
    source.commit(full, {})
    path = source.folder(full.run_id) / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"rgb"', b'"uni"'))
    code, out, err = bench("merge", str(home / "other"), "--results", str(home / "new"), "--json")
    assert code == 1
    assert list(json.loads(out)["refused"]) == [full.run_id]
    assert full.run_id in err


def test_commands_on_committed_runs_do_not_import_torch(home):
    for words in (
        ["leaderboard", "--csv"],
        ["leaderboard", "--show-published"],
        ["compare", "rgb", "poor"],
        ["export", "--out", "bundle.zip"],
        ["merge", "results", "--results", "new"],
    ):
        code = (
            f"import sys; from bench.cli.main import app; app({words!r}, standalone_mode=False); "
        )
        code += "assert 'torch' not in sys.modules"
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=home, check=False
        )
        assert process.returncode == 0, process.stderr
