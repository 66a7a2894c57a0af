"""The command that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny import FEWSHOT, altered, request, run, squares

from bench.api.run_config import RunConfig
from bench.board.scores import label
from bench.runs.command import command_of, to_command


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    squares(home / "squares", count=12)
    return home


def _request(home: Path, **changes: object) -> RunConfig:
    return request(home / "squares", **changes)


def _words(command: str) -> dict[str, str]:
    first, second, *words = shlex.split(command)
    assert (first, second) == ("bench", "run")
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_command_of_a_run_has_all_its_options(home):
    request = _request(home, epochs=2, lr=0.1, batch_size=3, **FEWSHOT)
    assert _words(command_of(run(request, home).record)) == {
        "--shots-unit": "images",
        "--backbone": "rgb",
        "--dataset": "squares",
        "--protocol": "fewshot",
        "--head": "linear",
        "--shots": "2",
        "--draws": "2",
        "--epochs": "2",
        "--lr": "0.1",
        "--batch-size": "3",
        "--folds": "0",
        "--recipe": "paper",
        "--view": "whole",
        "--input-px": "32",
    }
    prescribed = run(_request(home, protocol="linear-probe", head=None), home).record
    assert "--head" not in command_of(prescribed)


CHANGES: dict[str, dict[str, Any]] = {
    "folds, a seed and bf16": {
        "folds": 2,
        "seed": 3,
        "precision": "bf16",
    },
    "few shots": FEWSHOT,
    "a fraction of the labels": {"protocol": "labels", "fraction": 0.5, "draws": 2},
    "the untrained control": {
        "backbone": "cmd-tiny",
        "weights": "random",
        "option": {"timestep": "9"},
    },
    "tiles": {"view": "tiles"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_command_of_a_run_repeats_it(home, monkeypatch, command, name):
    """The command line selects the same run: its identity is that of the record."""
    record = run(_request(home, **CHANGES[name]), home).record
    _, *words = shlex.split(command_of(record))
    words[words.index("squares")] = str(home / "squares")
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    code, out, _ = command(*words, "--results", str(home / "results"), "--json")
    assert code == 0
    assert f'"run_id": "{record.run_id}"' in out


def test_the_command_of_an_untrained_control_has_its_seed(home):
    record = run(_request(home), home).record
    control = altered(record, backbone={"weights": "random:3"})
    assert _words(command_of(control))["--backbone"] == "rgb@random:3"
    assert label(control) == "rgb (random:3)"


def test_the_command_of_a_config_has_its_options(home):
    request = _request(
        home,
        backbone="a b'; rm -rf x",
        option={"t": "1"},
        condition="uni",
        limit=2,
        device="cpu",
    )
    words = _words(to_command(request))
    assert words["--backbone"] == "a b'; rm -rf x"
    assert words["--option"] == "t=1"
    assert words["--condition"] == "uni"
    assert (words["--limit"], words["--device"]) == ("2", "cpu")
    assert "--shots" not in words
