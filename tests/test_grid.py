"""Many runs in one command: expanded, checked as a whole, run in turn, and told together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Colours, Place, place

from bench import registry
from bench.api import PlanOptions
from bench.api.run_config import Grid, RunConfig
from bench.errors import RunFailed
from bench.runs import grid, trials
from bench.runs.grid import expand, protocol_name, varied_recipe

QUICK = ("--epochs", "1", "--input-px", "24")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


# ---- expansion -------------------------------------------------------------------------------


def _cells(**values: object) -> list[RunConfig]:
    expanded = expand(Grid.of({"protocol": "full", "dataset": "tnbc"} | values))
    assert not expanded.problems
    return list(expanded.cells)


def _problems(**values: object) -> list[str]:
    return list(expand(Grid.of({"dataset": "tnbc"} | values)).problems)


def test_a_grid_of_single_values_has_one_cell() -> None:
    config = RunConfig(protocol="full", dataset="tnbc", head="light", lr=0.1)
    assert _cells(head="light", lr=0.1) == [config]


def test_cells_are_ordered_by_data_set_and_then_by_backbone() -> None:
    cells = _cells(
        protocol=("fewshot", "full"),
        dataset=("tnbc", "kumar"),
        backbone=("b", "a"),
        shots=(1, 3),
    )
    places = [(cell.dataset, cell.backbone) for cell in cells]
    assert places == [(d, b) for d in ("tnbc", "kumar") for b in ("b", "a") for _ in range(3)]
    assert len({repr(cell) for cell in cells}) == 2 * 2 * (2 + 1)


def test_options_that_a_protocol_does_not_read_make_no_further_cells() -> None:
    assert len(_cells(protocol=("full", "fewshot"), shots=(1, 3, 5))) == 4
    cells = _cells(protocol=("linear-probe", "full"), head=("light", "decoder"))
    assert [(cell.protocol, cell.head) for cell in cells] == [
        ("linear-probe", None),
        ("full", "light"),
        ("full", "decoder"),
    ]


def test_fields_of_the_recipe_take_lists() -> None:
    cells = _cells(epochs=(1, 2), lr=(0.1, 0.01), batch_size=4)
    assert [cell.recipe_changes for cell in cells] == [
        {"epochs": epochs, "lr": lr, "batch_size": 4} for epochs in (1, 2) for lr in (0.1, 0.01)
    ]
    assert protocol_name(cells[0], recipe=varied_recipe(cells)) == "full, epochs 1, lr 0.1"


def test_a_run_of_a_series_and_a_protocol_is_one_cell() -> None:
    assert len(_cells(protocol=("full", "robustness"), head="light", shift="blur")) == 1 + 3


def test_options_that_no_protocol_reads_are_refused() -> None:
    (problem,) = _problems(protocol=("full", "linear-probe"), shots=3, target_dataset="kumar")
    assert problem == "the protocols 'full', 'linear-probe' take no --shots or --target-dataset."
    (problem,) = _problems(shots_unit="nuclei")
    assert problem == "the protocol 'linear-probe' takes no --shots-unit; --protocol fewshot does."
    assert not _problems(protocol=("full", "fewshot"), shots=3)


def test_options_of_one_value_are_refused_with_several() -> None:
    assert _problems(input_px=(8, 16)) == ["--input-px takes one number for linear-probe."]
    (problem,) = _problems(protocol="robustness", lr=(0.1, 1.0))
    assert problem == "--lr takes one number for robustness."


def test_a_series_has_its_backbones_unless_the_user_names_some() -> None:
    capacity = {"protocol": "scaling", "scale_over": "capacity"}
    names = [cell.backbone for cell in _cells(**capacity)]
    assert names == ["cmd-tiny", "cmd-s", "cmd-b", "cmd-l"]
    assert [cell.backbone for cell in _cells(**capacity, backbone="cmd-tiny")] == ["cmd-tiny"]


def test_a_series_with_too_few_backbones_is_refused() -> None:
    (problem,) = _problems(protocol="heads", backbone="rgb")
    assert "needs 2 backbones or more, but there is only rgb" in problem


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
    wanted = [
        "'two-colour'",
        "no.pt",
        "'tnbcc'",
        "'cpm15'",
        "'ful'",
        "'half'",
        "--target-dataset NAME",
    ]
    assert [word for word in wanted if word not in told.err] == []
    assert not here.records
    assert not list(here.home.glob("cache/*"))


def test_what_does_not_fit_together_is_told_before_anything_runs(here: Place) -> None:
    told = here.bench(
        "run", "--backbone", "one-colour,two-colours", "--dataset", "tnbc", "--head", "light"
    )
    assert told.code == 2
    assert "prescribes the head 'linear'" in told.err
    shots = ("--protocol", "fewshot", "--shots", "2,11", "--head", "linear,liner", "--json")
    told = here.bench("run", "--backbone", "one-colour", "--dataset", "tnbc", *shots)
    assert told.code == 2
    assert "at most 10" in told.json["error"]
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
    assert [run["cached"] for run in told.json["runs"]] == [False, False]
    assert (told.json["failed"], told.json["partial"]) == ([], False)
    alone = here.bench("run", "--dataset", "tnbc", "--backbone", "two-colours", *QUICK, "--json")
    assert {**alone.run, "cached": False} == told.json["runs"][1]
    again = here.bench(*TWO)
    assert again.out.splitlines()[0].strip() == "2 runs"
    assert again.out.count("cached") == 2


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
    cells = [RunConfig("one-colour", name, epochs=1, input_px=24) for name in ("tnbc", "no")]
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
    for flag in ("--shifts", "--target-dataset", "--scale-over", "--fractions", "--plot"):
        assert flag in told
    assert told.count("A,B,...") >= 8


def test_plan_options_stand_in_the_identity_of_the_protocols_that_read_them() -> None:
    read = {name: registry.get("protocols", name).options for name in ("full", "fewshot")}
    assert read == {"full": (), "fewshot": ("shots", "draws", "by")}
    assert registry.get("protocols", "labels").options == ("fraction", "draws")
    assert PlanOptions() == PlanOptions(fraction=1.0, by="images")
