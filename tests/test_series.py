"""Series: their runs and reports, on small squares."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import kendalltau
from squares import Place, place

from bench import registry
from bench.api import SeriesOptions
from bench.api.config import RunConfig
from bench.api.report import ReportOptions, SeriesReport
from bench.board.reporting import stored_groups
from bench.board.select import read_all
from bench.data.shifts import SHIFTS
from bench.errors import BenchError
from bench.runs import trials

QUICK = ("--epochs", "5", "--input-px", "24", "--lr", "0.1")
ONE = ("run", "--dataset", "tnbc", "--backbone", "one-colour", "--head", "linear", *QUICK)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


def reports_of_stored(name: str, here: Place) -> list[SeriesReport]:
    """Return what `bench report` would show of a series."""
    stored, _ = read_all(here.home / "results")
    protocol = registry.get("protocols", name)
    groups = stored_groups(stored, protocol.group_by)
    reports = [protocol.report(records, stored, ReportOptions()) for records in groups]
    return [report for report in reports if report.tables]


def _runs(name: str, request: RunConfig | None = None, **options: object) -> list[RunConfig]:
    own = SeriesOptions(**options)  # type: ignore[arg-type]
    return registry.get("protocols", name).runs(request or RunConfig(), own)


# ---- robustness ------------------------------------------------------------------------------


def test_robustness_asks_for_the_clean_run_and_every_shift() -> None:
    assert [run.shift for run in _runs("robustness")] == ["", *SHIFTS]
    kinds = _runs("robustness", shifts=("stain", "blur-2"))
    assert [run.shift for run in kinds] == ["", "blur-2", "stain-1", "stain-2", "stain-3"]
    assert {run.protocol for run in kinds} == {"full"}
    assert {run.protocol for run in _runs("robustness", RunConfig(head="linear"))} == {
        "linear-probe"
    }
    with pytest.raises(BenchError, match=r"unknown 'fog'\. Choose from blur, brightness"):
        _runs("robustness", shifts=("fog",))


def test_robustness_trains_once_and_tells_paired_differences(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], trials.fit
    monkeypatch.setattr(trials, "fit", lambda *given: calls.append(given) or real(*given))
    command = (*ONE, "--protocol", "robustness", "--shifts", "blur,stain-3")
    told = here.bench(*command, "--json")
    assert told.code == 0, told.err
    assert len(calls) == 1
    ((rows),) = [each["shifts"] for each in told.json["told"]["robustness"]["rows"]]
    names = ["clean", "blur-1", "blur-2", "blur-3", "stain-3", "mean over shifts"]
    assert [row["name"] for row in rows] == names
    means = {row["name"]: row["mean"] for row in rows}
    for row in rows[1:]:
        gap = row["mean"] - means["clean"]
        assert row["difference"]["mean"] == pytest.approx(gap, abs=1e-12)
    shifted = [means[name] for name in names[1:5]]
    assert means["mean over shifts"] == pytest.approx(sum(shifted) / 4)
    p = sorted(row["difference"]["p"] for row in rows[1:5])
    adjusted = sorted(row["holm_p"] for row in rows[1:5])
    assert adjusted[0] == pytest.approx(min(1, 4 * p[0]))
    assert means["clean"] == told.json["runs"][0]["scores"]["dice"]["mean"]
    shown = here.bench(*command)
    assert shown.out.splitlines()[0].strip() == "5 runs"
    assert "minus clean" in shown.out


# ---- transfer --------------------------------------------------------------------------------


def test_transfer_needs_targets_that_are_not_the_training_set() -> None:
    runs = _runs("transfer", RunConfig(dataset="tnbc"), target_datasets=("kumar", "cpm15"))
    assert [(run.dataset, run.target_dataset, run.protocol) for run in runs] == [
        ("tnbc", "kumar", "full"),
        ("tnbc", "cpm15", "full"),
    ]
    with pytest.raises(BenchError, match="--target-dataset NAME"):
        _runs("transfer")
    with pytest.raises(BenchError, match="training data set"):
        _runs("transfer", RunConfig(dataset="tnbc"), target_datasets=("tnbc",))


def test_transfer_is_told_beside_the_run_that_was_trained_there(here: Place) -> None:
    command = (*ONE, "--protocol", "transfer", "--target-dataset", "kumar", "--json")
    (alone,) = here.bench(*command).json["told"]["transfer"]["rows"]
    assert (alone["trained_on"], alone["name"]) == ("tnbc", "kumar")
    assert alone["difference"] is None
    assert alone["in_domain"] is None
    other = (*ONE[:1], "--dataset", "kumar", *ONE[3:], "--protocol", "full", "--json")
    here.bench(*other, "--seed", "1")  # of another seed: no run to compare with
    there = here.bench(*other).run
    found = here.bench(*command)
    (row,) = found.json["told"]["transfer"]["rows"]
    assert row["in_domain"] == there["run_id"]
    dice = there["scores"]["dice"]["mean"]
    assert row["in_domain_mean"] == pytest.approx(dice)
    assert row["difference"]["mean"] == pytest.approx(row["mean"] - dice)
    assert found.json["runs"][0]["found"]


def test_transfer_is_told_again_from_the_store(here: Place) -> None:
    command = (*ONE[:3], "--backbone", "one-colour,two-colours", *ONE[5:])
    own = (*command, "--protocol", "transfer", "--target-dataset", "kumar", "--json")
    assert here.bench(*command, "--protocol", "robustness", "--shifts", "blur").code == 0
    assert reports_of_stored("transfer", here) == []
    rows = here.bench(*own).json["told"]["transfer"]["rows"]
    (report,) = reports_of_stored("transfer", here)
    assert report.json == rows
    (plot,) = report.intervals
    assert plot.title == "tnbc to kumar · linear head"
    assert [(name, mean) for name, mean, *_ in plot.rows] == [
        (row["backbone"], row["mean"]) for row in rows
    ]


def test_transfer_beside_folds_gives_no_difference(here: Place) -> None:
    other = (*ONE[:1], "--dataset", "kumar", *ONE[3:], "--protocol", "full", "--folds", "3")
    assert here.bench(*other).code == 0
    command = (*ONE, "--protocol", "transfer", "--target-dataset", "kumar", "--json")
    (row,) = here.bench(*command).json["told"]["transfer"]["rows"]
    assert row["in_domain_mean"] is not None
    assert row["difference"] is None


# ---- heads -----------------------------------------------------------------------------------


def test_heads_asks_for_the_three_heads_or_for_those_that_are_named() -> None:
    assert [run.head for run in _runs("heads")] == ["linear", "light", "decoder"]
    assert [run.head for run in _runs("heads", RunConfig(head="upernet"))] == ["upernet"]


def test_heads_tells_how_alike_two_heads_rank_the_backbones(here: Place) -> None:
    backbones = ("--backbone", "one-colour,two-colours,three-colours,unreleased")
    command = ("run", "--dataset", "tnbc", *backbones, "--head", "linear,blurred", *QUICK)
    told = here.bench(*command, "--protocol", "heads", "--json")
    assert told.code == 1, told.err  # one has no weights, under two heads
    assert len(told.json["failed"]) == 2
    (row,) = told.json["told"]["heads"]["rows"]
    assert row["heads"] == ["linear", "blurred"]
    assert row["backbones"] == ["one-colour", "two-colours", "three-colours"]
    boards: dict[str, list[float]] = {"linear": [], "blurred": []}
    for run in told.json["runs"]:
        boards[run["spec"]["head"]["name"]].append(run["scores"]["dice"]["mean"])
    assert min(len(set(board)) for board in boards.values()) > 1  # no board is all ties
    wanted = kendalltau(boards["linear"], boards["blurred"])[0]
    assert row["kendall"]["value"] == pytest.approx(wanted)
    assert row["kendall"]["interval"]["low"] <= wanted <= row["kendall"]["interval"]["high"]
    (sentence,) = told.json["told"]["heads"]["statement"]
    assert "the ranking" in sentence
    assert "3 backbones; lowest Kendall's tau" in sentence


# ---- scaling ---------------------------------------------------------------------------------


def test_scaling_needs_an_axis_and_its_own_options(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="labels, steps, capacity, resolution"):
        _runs("scaling")
    with pytest.raises(BenchError, match="unknown axis 'depth'"):
        _runs("scaling", scale_over="depth")
    with pytest.raises(BenchError, match="--fractions is for --scale-over labels"):
        _runs("scaling", scale_over="capacity", fractions=(0.5,))
    with pytest.raises(BenchError, match="--checkpoints DIR"):
        _runs("scaling", scale_over="steps")
    with pytest.raises(BenchError, match="no checkpoints step-N"):
        _runs("scaling", scale_over="steps", checkpoints=tmp_path)
    with pytest.raises(BenchError, match="--input-px 128,256,512"):
        _runs("scaling", scale_over="resolution", input_px=(64,))
    fractions = [run.plan.fraction for run in _runs("scaling", scale_over="labels")]
    assert fractions == [0.1, 0.25, 0.5, 1.0]


def test_scaling_by_labels_tells_a_curve_and_draws_it(here: Place) -> None:
    command = (*ONE, "--protocol", "scaling", "--scale-over", "labels", "--draws", "2")
    told = here.bench(*command, "--plot", str(here.home / "curve.svg"), "--json")
    assert told.code == 0, told.err
    (row,) = told.json["told"]["scaling"]["rows"]
    assert [point["x"] for point in row["points"]] == [1, 2, 3, 6]  # of 6: 0.6, 1.5, 3, 6
    assert [run["spec"]["protocol"]["fraction"] for run in told.json["runs"]] == [0.1, 0.25, 0.5, 1]
    for point, run in zip(row["points"], told.json["runs"], strict=True):
        assert point["mean"] == pytest.approx(run["scores"]["dice"]["mean"])
    means = [point["mean"] for point in row["points"]]
    assert min(means) <= row["area"] <= max(means)
    assert row["needed"]["target"] == pytest.approx(0.95 * means[-1])  # of all the labels
    assert (here.home / "curve.svg").read_text().startswith("<?xml")


def test_scaling_by_steps_takes_the_checkpoints_in_their_order(here: Place) -> None:
    import torch

    from bench.models.load import open_backbone

    folder = here.home / "pretrained" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (8, 2, 16):
        state = open_backbone("cmd-tiny", random=True, seed=step).extractor.state_dict()
        weights = {name.removeprefix("network."): each for name, each in state.items()}
        torch.save({"model": weights}, folder / f"step-{step:08d}.pt")
    told = here.bench(
        *("run", "--backbone", "cmd-tiny", "--dataset", "tnbc", "--epochs", "1"),
        *("--input-px", "16", "--head", "linear", "--protocol", "scaling", "--scale-over", "steps"),
        *("--checkpoints", str(folder.parent), "--json"),
    )
    assert told.code == 0, told.err
    (row,) = told.json["told"]["scaling"]["rows"]
    assert [point["x"] for point in row["points"]] == [2, 8, 16]
    weights = {run["spec"]["backbone"]["weights"] for run in told.json["runs"]}
    assert len(weights) == 3


def test_scaling_by_capacity_orders_backbones_by_their_parameters(here: Place) -> None:
    backbones = ("--backbone", "three-colours,one-colour,unreleased,two-colours")
    command = ("run", "--dataset", "tnbc", *backbones, "--head", "linear", *QUICK)
    told = here.bench(*command, "--protocol", "scaling", "--scale-over", "capacity", "--json")
    assert told.code == 1
    (row,) = told.json["told"]["scaling"]["rows"]
    assert [(point["label"], point["x"]) for point in row["points"]] == [
        ("one-colour", 4),
        ("two-colours", 8),
        ("three-colours", 12),
    ]
    assert [each["backbone"] for each in told.json["failed"]] == ["unreleased"]


def test_scaling_by_resolution_varies_the_side_of_the_input(here: Place) -> None:
    sides = ("--input-px", "32,16,24")
    command = ("run", "--dataset", "tnbc", "--backbone", "one-colour", "--epochs", "1", *sides)
    own = ("--head", "linear", "--protocol", "scaling", "--scale-over", "resolution", "--json")
    told = here.bench(*command, *own)
    assert told.code == 0, told.err
    (row,) = told.json["told"]["scaling"]["rows"]
    assert [point["x"] for point in row["points"]] == [16, 24, 32]
    (again,) = reports_of_stored("scaling", here)
    assert again.json == [row]
    assert [*again.curves[0].curves] == ["one-colour, linear"]


def test_runs_that_differ_in_more_than_their_pixels_are_no_curve(here: Place) -> None:
    for side, epochs in (("24", "1"), ("32", "2")):
        words = ("--input-px", side, "--epochs", epochs, "--protocol", "full")
        assert here.bench(*ONE[:7], *words).code == 0
    assert reports_of_stored("scaling", here) == []


# ---- few-shot with several sizes -------------------------------------------------------------


def test_few_shot_of_several_sizes_tells_the_area_and_the_labels_needed(here: Place) -> None:
    command = (*ONE, "--shots", "1,2,4", "--draws", "2", "--json")
    alone = here.bench(*command, "--protocol", "fewshot").json["told"]["fewshot"]["rows"]
    assert alone[0]["needed"] is None  # no run on all the images
    told = here.bench(*command, "--protocol", "fewshot,full")
    assert told.code == 0, told.err
    (row,) = told.json["told"]["fewshot"]["rows"]
    full = next(r for r in told.json["runs"] if r["spec"]["protocol"]["name"] == "full")
    assert row["needed"]["target"] == pytest.approx(0.95 * full["scores"]["dice"]["mean"])
    assert row["area"] == alone[0]["area"]
    found = here.bench(*command, "--protocol", "fewshot").json["told"]["fewshot"]["rows"]
    assert found == [row]  # from the store


def test_one_size_tells_no_curve(here: Place) -> None:
    command = (*ONE, "--protocol", "fewshot,full", "--shots", "2", "--draws", "2")
    told = here.bench(*command)
    assert told.code == 0, told.err
    assert "Label efficiency" not in told.out
    refused = here.bench(*command, "--plot", str(here.home / "none.svg"))
    assert refused.code == 2
    assert "--plot draws curves of several runs" in refused.err


def test_few_shot_by_nuclei_is_told_against_nuclei(here: Place) -> None:
    own = ("--protocol", "fewshot", "--shots-unit", "nuclei", "--shots", "2,5", "--draws", "2")
    told = here.bench(*ONE, *own, "--json")
    assert told.code == 0, told.err
    (row,) = told.json["told"]["fewshot"]["rows"]
    assert [point["x"] for point in row["points"]] == [2, 5]
    assert {run["spec"]["protocol"]["by"] for run in told.json["runs"]} == {"nuclei"}
    shown = here.bench(
        *ONE, "--protocol", "fewshot", "--shots-unit", "nuclei", "--shots", "2", "--draws", "2"
    )
    assert "2 draws of 2 training nuclei" in shown.out
