"""Series of runs and their reports, on small squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from tiny import FEWSHOT, Place, place, request, run, squares

from bench import registry
from bench.api import SeriesOptions
from bench.api.board import BoardOptions
from bench.api.report import ReportOptions, Result, SeriesReport
from bench.api.run_config import Grid, RunConfig
from bench.board.reporting import stored_groups
from bench.board.scores import scores_of_images
from bench.board.select import read_all
from bench.data.shifts import SHIFTS
from bench.errors import BenchError
from bench.models.load import open_backbone
from bench.render.seeds import report_seeds
from bench.runs import trials
from bench.runs.grid import expand

QUICK = ("--epochs", "5", "--input-px", "24", "--lr", "0.1")
ON_TNBC = ("run", "--dataset", "tnbc", "--head", "linear", *QUICK, "--backbone")
ONE = (*ON_TNBC, "one-colour")
ON_KUMAR = ("run", "--dataset", "kumar", *ONE[3:], "--protocol", "full")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


def stored_reports(name: str, here: Place) -> list[SeriesReport]:
    """Return what `bench report` shows of a series."""
    stored, _ = read_all(here.home / "results")
    protocol = registry.get("protocols", name)
    groups = stored_groups(stored, protocol.group_by)
    reports = [protocol.report(records, stored, ReportOptions()) for records in groups]
    return [report for report in reports if report.tables]


def runs_of(name: str, config: RunConfig | None = None, **options: Any) -> list[RunConfig]:
    return registry.get("protocols", name).runs(config or RunConfig(), SeriesOptions(**options))


def series(here: Place, name: str, *words: str, code: int = 0) -> tuple[list[dict], list[dict]]:
    """Run a series; return the rows of its report, and its runs."""
    result = here.bench(*words, "--protocol", name, "--json")
    assert result.code == code, result.err
    return result.json["reports"][name.split(",")[0]]["rows"], result.json["runs"]


# ---- robustness ------------------------------------------------------------------------------


def test_robustness_consists_of_a_clean_run_and_every_shift() -> None:
    assert [run.shift for run in runs_of("robustness")] == ["", *SHIFTS]
    runs = runs_of("robustness", shifts=("stain", "blur-2"))
    assert [run.shift for run in runs] == ["", "blur-2", "stain-1", "stain-2", "stain-3"]
    assert {run.protocol for run in runs} == {"full"}
    with_head = runs_of("robustness", RunConfig(head="linear"))
    assert {run.protocol for run in with_head} == {"linear-probe"}
    with pytest.raises(BenchError, match=r"unknown 'fog'\. Choose from blur, brightness"):
        runs_of("robustness", shifts=("fog",))


def test_robustness_trains_once_and_reports_paired_differences(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fit = [], trials.fit
    monkeypatch.setattr(trials, "fit", lambda *arguments: calls.append(1) or fit(*arguments))
    command = (*ONE, "--shifts", "blur,stain-3")
    (report,), runs = series(here, "robustness", *command)
    assert len(calls) == 1
    rows = report["shifts"]
    names = ["clean", "blur-1", "blur-2", "blur-3", "stain-3", "mean over shifts"]
    assert [row["name"] for row in rows] == names
    means = {row["name"]: row["mean"] for row in rows}
    for row in rows[1:]:
        gap = row["mean"] - means["clean"]
        assert row["difference"]["mean"] == pytest.approx(gap, abs=1e-12)
    assert means["mean over shifts"] == pytest.approx(np.mean([means[n] for n in names[1:5]]))
    p = min(row["difference"]["p"] for row in rows[1:5])
    assert min(row["holm_p"] for row in rows[1:5]) == pytest.approx(min(1, 4 * p))
    assert means["clean"] == runs[0]["scores"]["dice"]["mean"]
    text = here.bench(*command, "--protocol", "robustness").out
    assert text.splitlines()[0].strip() == "5 runs"
    assert "minus clean" in text


# ---- transfer --------------------------------------------------------------------------------


def test_transfer_needs_targets_other_than_the_training_set() -> None:
    runs = runs_of("transfer", RunConfig(dataset="tnbc"), target_datasets=("kumar", "cpm15"))
    assert [(run.dataset, run.target_dataset, run.protocol) for run in runs] == [
        ("tnbc", "kumar", "full"),
        ("tnbc", "cpm15", "full"),
    ]
    with pytest.raises(BenchError, match="--target-dataset NAME"):
        runs_of("transfer")
    with pytest.raises(BenchError, match="training data set"):
        runs_of("transfer", RunConfig(dataset="tnbc"), target_datasets=("tnbc",))


def test_transfer_is_compared_with_the_run_trained_on_the_target(here: Place) -> None:
    command = (*ONE, "--target-dataset", "kumar")
    (alone,), _ = series(here, "transfer", *command)
    assert (alone["trained_on"], alone["name"]) == ("tnbc", "kumar")
    assert alone["difference"] is alone["in_domain"] is None
    assert here.bench(*ON_KUMAR, "--seed", "1").code == 0  # not comparable
    assert here.bench(*ON_KUMAR, "--folds", "3").code == 0
    (row,), _ = series(here, "transfer", *command)
    assert row["in_domain_mean"] is not None
    assert row["difference"] is None  # folds score other images
    in_domain = here.bench(*ON_KUMAR, "--json").run
    (row,), (transferred,) = series(here, "transfer", *command)
    assert row["in_domain"] == in_domain["run_id"]
    dice = in_domain["scores"]["dice"]["mean"]
    assert row["in_domain_mean"] == pytest.approx(dice)
    assert row["difference"]["mean"] == pytest.approx(row["mean"] - dice)
    assert transferred["cached"]


def test_stored_transfer_runs_have_the_same_report(here: Place) -> None:
    command = (*ON_TNBC, "one-colour,two-colours")
    series(here, "robustness", *command, "--shifts", "blur")
    assert stored_reports("transfer", here) == []
    rows, _ = series(here, "transfer", *command, "--target-dataset", "kumar")
    (report,) = stored_reports("transfer", here)
    assert report.json == rows
    (plot,) = report.intervals
    assert plot.title == "tnbc to kumar · linear head"
    expected = [(row["backbone"], row["mean"]) for row in rows]
    assert [(name, mean) for name, mean, *_ in plot.rows] == expected


# ---- heads -----------------------------------------------------------------------------------


def test_heads_runs_three_heads_or_the_named_ones() -> None:
    assert [run.head for run in runs_of("heads")] == ["linear", "light", "decoder"]
    assert [run.head for run in runs_of("heads", RunConfig(head="upernet"))] == ["upernet"]


def test_heads_reports_the_rank_correlation_of_two_heads(here: Place) -> None:
    command = (*ON_TNBC, "one-colour,two-colours,three-colours,unreleased")
    words = ("--head", "linear,blurred", "--protocol", "heads", "--json")
    result = here.bench(*command, *words)
    assert result.code == 1, result.err  # one backbone has no weights, under two heads
    assert len(result.json["failed"]) == 2
    (row,) = result.json["reports"]["heads"]["rows"]
    assert row["heads"] == ["linear", "blurred"]
    assert row["backbones"] == ["one-colour", "two-colours", "three-colours"]
    boards: dict[str, list[float]] = {"linear": [], "blurred": []}
    for document in result.json["runs"]:
        boards[document["spec"]["head"]["name"]].append(document["scores"]["dice"]["mean"])
    assert min(len(set(board)) for board in boards.values()) > 1  # no board is all ties
    expected = kendalltau(boards["linear"], boards["blurred"])[0]
    assert row["kendall"]["value"] == pytest.approx(expected)
    assert row["kendall"]["interval"]["low"] <= expected <= row["kendall"]["interval"]["high"]
    (sentence,) = result.json["reports"]["heads"]["statement"]
    assert "3 backbones; lowest Kendall's tau" in sentence


# ---- scaling ---------------------------------------------------------------------------------


def test_scaling_needs_an_axis_and_its_options(tmp_path: Path) -> None:
    for options, message in [
        ({}, "labels, steps, capacity, resolution"),
        ({"scale_over": "depth"}, "unknown axis 'depth'"),
        ({"scale_over": "capacity", "fractions": (0.5,)}, "--fractions is for --scale-over labels"),
        ({"scale_over": "steps"}, "--checkpoints DIR"),
        ({"scale_over": "steps", "checkpoints": tmp_path}, "no checkpoints step-N"),
        ({"scale_over": "resolution", "input_px": (64,)}, "--input-px 128,256,512"),
    ]:
        with pytest.raises(BenchError, match=message):
            runs_of("scaling", **options)
    runs = runs_of("scaling", scale_over="labels")
    assert [run.plan.fraction for run in runs] == [0.1, 0.25, 0.5, 1.0]


def test_scaling_over_labels_reports_and_draws_a_curve(here: Place) -> None:
    path = here.home / "curve.svg"
    words = ("--scale-over", "labels", "--draws", "2", "--plot", str(path))
    (row,), runs = series(here, "scaling", *ONE, *words)
    assert [point["x"] for point in row["points"]] == [1, 2, 5, 10]  # of 10: 1, 2.5, 5, 10
    assert [run["spec"]["protocol"]["fraction"] for run in runs] == [0.1, 0.25, 0.5, 1]
    means = [point["mean"] for point in row["points"]]
    assert means == pytest.approx([run["scores"]["dice"]["mean"] for run in runs])
    assert min(means) <= row["area"] <= max(means)
    assert row["needed"]["target"] == pytest.approx(0.95 * means[-1])  # of all labels
    assert path.read_text().startswith("<?xml")


def test_scaling_over_steps_sorts_the_checkpoints(here: Place) -> None:
    folder = here.home / "pretrained" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (8, 2, 16):
        state = open_backbone("cmd-tiny", random=True, seed=step).extractor.state_dict()
        weights = {name.removeprefix("network."): value for name, value in state.items()}
        torch.save({"model": weights}, folder / f"step-{step:08d}.pt")
    words = ("--input-px", "16", "--scale-over", "steps", "--checkpoints", str(folder.parent))
    (row,), runs = series(here, "scaling", *ON_TNBC, "cmd-tiny", *words)
    assert [point["x"] for point in row["points"]] == [2, 8, 16]
    assert len({run["spec"]["backbone"]["weights"] for run in runs}) == 3


def test_scaling_over_capacity_sorts_backbones_by_their_parameters(here: Place) -> None:
    backbones = "three-colours,one-colour,unreleased,two-colours"  # the third has no weights
    (row,), _ = series(here, "scaling", *ON_TNBC, backbones, "--scale-over", "capacity", code=1)
    points = [(point["label"], point["x"]) for point in row["points"]]
    assert points == [("one-colour", 4), ("two-colours", 8), ("three-colours", 12)]


def test_scaling_over_resolution_varies_only_the_input_size(here: Place) -> None:
    for side, epochs in (("24", "1"), ("32", "2")):
        words = ("--input-px", side, "--epochs", epochs, "--protocol", "full")
        assert here.bench(*ONE, *words).code == 0
    assert stored_reports("scaling", here) == []  # runs that differ in their epochs too
    words = ("--input-px", "32,16,24", "--scale-over", "resolution")
    (row,), _ = series(here, "scaling", *ONE, *words)
    assert [point["x"] for point in row["points"]] == [16, 24, 32]
    (report,) = stored_reports("scaling", here)
    assert report.json == [row]
    assert [*report.curves[0].curves] == ["one-colour, linear"]


# ---- few-shot runs ---------------------------------------------------------------------------


def test_few_shot_runs_of_several_sizes_report_area_and_labels_needed(here: Place) -> None:
    command = (*ONE, "--shots", "1,2,4", "--draws", "2")
    (alone,), _ = series(here, "fewshot", *command)
    assert alone["needed"] is None  # without a run on all images
    (row,), runs = series(here, "fewshot,full", *command)
    full = next(run for run in runs if run["spec"]["protocol"]["name"] == "full")
    assert row["needed"]["target"] == pytest.approx(0.95 * full["scores"]["dice"]["mean"])
    assert row["area"] == alone["area"]
    again, _ = series(here, "fewshot", *command)
    assert again == [row]  # the stored full run is used


def test_one_size_has_no_curve(here: Place) -> None:
    command = (*ONE, "--protocol", "fewshot,full", "--shots", "2", "--draws", "2")
    result = here.bench(*command)
    assert result.code == 0, result.err
    assert "Label efficiency" not in result.out
    result = here.bench(*command, "--plot", str(here.home / "none.svg"))
    assert result.code == 2
    assert "--plot draws curves of several runs" in result.err


def test_support_sets_by_nuclei_are_plotted_against_nuclei(here: Place) -> None:
    command = (*ONE, "--shots-unit", "nuclei", "--draws", "2")
    (row,), runs = series(here, "fewshot", *command, "--shots", "2,5")
    assert [point["x"] for point in row["points"]] == [2, 5]
    assert {run["spec"]["protocol"]["by"] for run in runs} == {"nuclei"}
    text = here.bench(*command, "--protocol", "fewshot", "--shots", "2").out
    assert "2 draws of 2 training nuclei" in text


# ---- several seeds ---------------------------------------------------------------------------


def test_a_protocol_runs_with_several_seeds_and_a_series_with_one() -> None:
    grid = Grid.of({"protocol": "linear-probe", "dataset": "tnbc", "seed": (0, 3)})
    assert [cell.seed for cell in expand(grid).cells] == [0, 3]
    grid = Grid.of({"protocol": "robustness", "dataset": "tnbc", "seed": (0, 3)})
    assert expand(grid).problems == ["--seed takes one number for robustness."]


def test_the_spread_is_over_runs_and_the_interval_over_averaged_images(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares")
    results = []
    for seed in (0, 1, 2):
        config = request(folder, protocol="fewshot", shots=1, draws=2, seed=seed)
        results.append(Result(config, run(config, tmp_path)))
    report = report_seeds(results, BoardOptions(metric="dice", resamples=200))
    row: Any = report.json[0]
    records = [result.record for result in results if result.record]
    images = np.stack([scores_of_images(record, "dice").mean(axis=0) for record in records])
    assert row["seeds"] == [0, 1, 2]
    assert row["means"] == pytest.approx(images.mean(axis=1))
    assert row["sd_over_seeds"] == pytest.approx(np.std(images.mean(axis=1), ddof=1))
    assert len(set(row["means"])) > 1
    low, high = row["interval_over_patients"]
    assert low < images.mean() < high
    assert str(report.tables[0].rows[0][4]) == "3"
    failed = Result(results[1].config, reason="out of memory")
    config = request(folder, **FEWSHOT)
    other = Result(config, run(config, tmp_path))  # a run with other settings
    for pair in ([results[0], failed], [results[0], other]):
        assert report_seeds(pair, BoardOptions()) == SeriesReport()


def test_bench_run_reports_the_spread_over_seeds(here: Place) -> None:
    document = here.bench(*ONE, "--seed", "0,1", "--json").json
    (spread,) = document["reports"]["seeds"]["rows"]
    assert spread["seeds"] == [0, 1]
    assert len({run["run_id"] for run in document["runs"]}) == 2
    assert here.bench("run", "--seed", "0,one").code == 2
