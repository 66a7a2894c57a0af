"""Many runs in one command: expanded, checked as a whole, run in turn, and told together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from squares import Colours, Place, place

from bench import registry
from bench.api import PlanOptions, SeriesOptions
from bench.api.experiment import Request
from bench.errors import RunFailed
from bench.runs import grid, trials
from bench.runs.grid import Grid, expand

QUICK = ("--epochs", "1", "--input-px", "24")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


# ---- expansion -------------------------------------------------------------------------------


def _cells(**asked: object) -> list[tuple[str, str, str, str | None, int]]:
    own = {"request": Request(), "protocols": ["full"], "datasets": ["tnbc"]} | asked
    found = expand(Grid(**own))  # type: ignore[arg-type]
    assert not found.problems
    return [(c.dataset, c.backbone, c.protocol, c.head, c.plan.shots) for c in found.cells]


def test_one_of_each_is_one_cell_and_the_request_itself() -> None:
    (cell,) = expand(Grid(Request(), ["linear-probe"], ["synthetic"])).cells
    assert cell == Request()


def test_cells_go_data_set_by_data_set_and_backbone_by_backbone() -> None:
    found = _cells(
        protocols=["fewshot", "full"],
        datasets=["tnbc", "kumar"],
        backbones=["b", "a"],
        varied={"shots": (1, 3)},
    )
    places = [cell[:2] for cell in found]
    assert places == [(d, b) for d in ("tnbc", "kumar") for b in ("b", "a") for _ in range(3)]
    assert len(set(found)) == 2 * 2 * (2 + 1)


def test_what_a_protocol_does_not_read_makes_no_further_cells() -> None:
    shots = {"shots": (1, 3, 5)}
    assert len(_cells(protocols=["full", "fewshot"], varied=shots)) == 4
    heads = _cells(protocols=["linear-probe", "full"], heads=["light", "decoder"])
    assert [cell[2:4] for cell in heads] == [
        ("linear-probe", None),
        ("full", "light"),
        ("full", "decoder"),
    ]


def test_a_run_that_a_series_and_a_protocol_share_is_made_once() -> None:
    options = SeriesOptions(shifts=("blur",))
    found = _cells(protocols=["full", "robustness"], heads=["light"], series=options)
    assert len(found) == 1 + 3


def test_options_that_no_protocol_reads_are_refused_and_those_that_one_reads_are_not() -> None:
    own = Grid(Request(), ["full", "linear-probe"], ["tnbc"], given=frozenset({"--shots", "--to"}))
    told = "the protocols 'full', 'linear-probe' take no --shots or --to."
    assert expand(own).problems == [told]
    read = dataclasses.replace(own, protocols=["full", "fewshot"], given=frozenset({"--shots"}))
    assert not expand(read).problems
    sides = dataclasses.replace(own, given=frozenset(), series=SeriesOptions(input_px=(8, 16)))
    assert "--input-px takes one number" in expand(sides).problems[0]


def test_a_series_names_its_own_backbones_only_where_the_user_names_none() -> None:
    capacity = {"protocols": ["scaling"], "series": SeriesOptions(axis="capacity")}
    assert [cell[1] for cell in _cells(**capacity)] == ["cmd-tiny", "cmd-s", "cmd-b", "cmd-l"]
    assert [cell[1] for cell in _cells(**capacity, backbones=["rgb"])] == ["rgb"]


def test_a_series_that_needs_several_backbones_says_so() -> None:
    found = expand(Grid(Request(), ["heads"], ["tnbc"], backbones=["rgb"]))
    assert "needs 2 backbones or more, and there is rgb" in found.problems[0]


# ---- before anything runs --------------------------------------------------------------------


def test_all_problems_are_told_at_once_and_nothing_runs(here: Place) -> None:
    told = here.bench(
        *("run", "--backbone", "two-colour,rgb@no.pt,one-colour", "--dataset", "tnbcc,tnbc,cpm15"),
        *(
            "--protocol",
            "ful,linear-probe,transfer",
            "--view",
            "half",
        ),
    )
    assert told.code == 2
    wanted = ["'two-colour'", "no.pt", "'tnbcc'", "'cpm15'", "'ful'", "'half'", "--to NAME"]
    assert [word for word in wanted if word not in told.err] == []
    assert not here.records
    assert not list(here.home.glob("cache/*"))


def test_what_does_not_fit_together_is_told_before_anything_runs(here: Place) -> None:
    told = here.bench(
        "run", "--backbone", "one-colour,two-colours", "--dataset", "tnbc", "--head", "light"
    )
    assert told.code == 2
    assert "prescribes the head 'linear'" in told.err
    shots = ("--protocol", "fewshot", "--shots", "2,7", "--head", "linear,liner", "--json")
    told = here.bench("run", "--backbone", "one-colour", "--dataset", "tnbc", *shots)
    assert told.code == 2
    assert "at most 6" in told.json["error"]
    assert "'liner'" in told.json["error"]
    assert not here.records


@pytest.mark.parametrize("shots", ["1,,3", "1,three", ",1"])
def test_a_list_that_is_none_is_refused(here: Place, shots: str) -> None:
    told = here.bench("run", "--protocol", "fewshot", "--shots", shots)
    assert told.code == 2
    assert "--shots" in told.err


# ---- running ---------------------------------------------------------------------------------

TWO = ("run", "--dataset", "tnbc", "--backbone", "one-colour,two-colours", *QUICK)


def test_several_runs_are_those_of_each_alone_and_are_found_again(here: Place) -> None:
    told = here.bench(*TWO, "--json")
    assert told.code == 0, told.err
    assert [run["found"] for run in told.json["runs"]] == [False, False]
    assert (told.json["failed"], told.json["partial"]) == ([], False)
    alone = here.bench("run", "--dataset", "tnbc", "--backbone", "two-colours", *QUICK, "--json")
    assert {**alone.json, "found": False} == told.json["runs"][1]
    again = here.bench(*TWO)
    assert again.out.splitlines()[0].strip() == "2 runs"
    assert again.out.count("found") == 2


@pytest.mark.fault(10)
def test_a_cell_that_fails_stops_no_other_and_the_exit_code_tells(here: Place) -> None:
    command = ("run", "--dataset", "tnbc,kumar", *QUICK)
    command += ("--backbone", "one-colour,unreleased,two-colours")
    told = here.bench(*command)
    assert told.code == 1
    assert told.out.splitlines()[0].strip() == "partial: 4 of 6 runs"
    reasons = [line for line in told.out.splitlines() if line.startswith("failed: unreleased on")]
    assert len(reasons) == 2
    assert "there are no weights for unreleased" in reasons[0]
    document = here.bench(*command, "--json")
    assert document.code == 1
    assert document.json["partial"] is True
    assert len(document.json["runs"]) == 4
    assert [each["dataset"] for each in document.json["failed"]] == ["tnbc", "kumar"]


@pytest.mark.fault(12)
def test_a_run_that_fails_under_way_is_told_too(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise RunFailed("the loss became nan at step 3")

    monkeypatch.setattr(trials, "fit", fails)
    told = here.bench(*TWO, "--json")
    assert told.code == 1
    assert [each["reason"] for each in told.json["failed"]] == ["the loss became nan at step 3"] * 2


@pytest.mark.fault(2)
def test_a_command_that_is_stopped_goes_on_to_the_same_records(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*TWO, "--protocol", "fewshot,full", "--shots", "1,3", "--draws", "2")
    command += ("--head", "linear")
    assert here.bench(*command).code == 0
    whole = here.records
    for name in ("results", "cache"):
        (here.home / name).rename(here.home / f"{name}-of-the-whole")
    real, calls = trials.fit, []

    def stops(*given: object) -> float:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "fit", stops)
    assert here.bench(*command).code == 130
    assert len(here.records) == 1  # the first of six, and a draw of the second
    resumed = here.bench(*command)
    assert resumed.code == 0, resumed.err
    assert here.records == whole
    assert len(here.records) == 6
    assert len(calls) == 10 + 1


def test_a_backbone_is_opened_once_a_data_set(here: Place) -> None:
    Colours.opened = 0
    told = here.bench(
        *TWO,
        "--protocol",
        "linear-probe,full,fewshot",
        "--head",
        "linear",
        "--shots",
        "1,2",
        "--draws",
        "1",
    )
    assert told.code == 0, told.err
    assert told.out.splitlines()[0].strip() == "8 runs"
    assert Colours.opened == 2


def test_runs_with_test_time_training_bring_their_twins(here: Place) -> None:
    own = ("--ttt", "--ttt-option", "steps=1", "--ttt-option", "views=1")
    told = here.bench(
        *("run", "--backbone", "cmd-tiny", "--dataset", "tnbc,kumar", "--epochs", "1"),
        *("--input-px", "16", *own),
    )
    assert told.code == 0, told.err
    assert told.out.splitlines()[0].strip() == "4 runs"
    assert "minus the same run without test-time training" in told.out


def test_progress_tells_the_cell(here: Place) -> None:
    from bench.runs.execute import Paths

    told: list[tuple[str, int, int]] = []
    cells = [
        Request("one-colour", name, recipe={"epochs": 1}, input_px=24) for name in ("tnbc", "no")
    ]
    places = Paths(here.home / "results", here.home / "data")
    results = list(grid.run(cells, places, lambda *each: told.append(each)))
    assert [bool(each.outcome) for each in results] == [True, False]
    assert [each for each in told if each[0].startswith("cell")] == [
        ("cell: 1 of 2, one-colour on tnbc", 0, 2),
        ("cell: 2 of 2, one-colour on no", 1, 2),
        ("cell: all", 2, 2),
    ]


def test_the_help_names_what_takes_a_list(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = here.bench("run", "--help").out
    for flag in ("--shifts", "--to", "--axis", "--fractions", "--by", "--plot", "--checkpoints"):
        assert flag in told
    assert told.count("A,B,...") >= 8


def test_plan_options_stand_in_the_identity_of_the_protocols_that_read_them() -> None:
    read = {name: registry.get("protocols", name).options for name in ("full", "fewshot")}
    assert read == {"full": (), "fewshot": ("shots", "draws", "by")}
    assert registry.get("protocols", "labels").options == ("fraction", "draws")
    assert PlanOptions() == PlanOptions(fraction=1.0, by="images")
