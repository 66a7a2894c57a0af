"""Running a job: features, training, scoring, and going on after a stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, HeadPlugin, Labelled, Prediction, Weights
from bench.api.nn import FeatureExtractor
from bench.api.record import to_bytes
from bench.api.report import Outcome
from bench.api.run_config import RunConfig
from bench.board.scores import scores_of_images
from bench.data import folder as data_folder
from bench.data.folder import write
from bench.errors import BenchError, RunFailed
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.heads._linear import LinearHead
from bench.runs import trials
from bench.runs.execute import Paths, execute
from bench.runs.resolve import resolve
from bench.store.results import Store


class Edges(FeatureExtractor):
    """One convolution; frozen or not."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (4,), (2,)

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.requires_grad_(not frozen)
        self.calls = 0

    def forward(self, images: Tensor) -> list[Tensor]:
        self.calls += 1
        return [self.conv(images)]  # (N, 4, H/2, W/2)


FROZEN = Backbone("edges-frozen", lambda: Edges(True), weights=Weights(needed=False))
TRAINING = Backbone("edges-training", lambda: Edges(False), weights=Weights(needed=False))


@pytest.fixture
def squares(tmp_path, monkeypatch) -> Path:
    """A folder of bright squares, and two backbones of one convolution in the registry."""
    shelf = registry.catalogue("backbones").found
    for record in (FROZEN, TRAINING):
        monkeypatch.setitem(shelf, record.name, [registry.LoadedPlugin(record, "this test")])
    rng = np.random.default_rng(0)
    samples = []
    for number in range(10):
        instances = np.zeros((32, 40), np.uint16)
        instances[8 + number : 18 + number, 4:20] = 1
        image = rng.integers(150, 200, (32, 40, 3)).astype(np.uint8)
        image[instances > 0] -= 90
        split = "train" if number < 5 else "test"
        samples.append(Labelled(f"i{number}", image, instances, split, f"p{number}"))
    write(samples, tmp_path / "squares", about="squares")
    return tmp_path / "squares"


def _request(folder: Path, **changes: object) -> RunConfig:
    request = RunConfig(
        backbone="edges-frozen",
        dataset=str(folder),
        protocol="full",
        head="linear",
        epochs=4,
        lr=0.05,
        folds=0,
        view="whole",
        input_px=32,
    )
    return dataclasses.replace(request, **changes)


def _silent(*_: object) -> None: ...


def _run(request: RunConfig, home: Path, **options: bool) -> Outcome:
    return execute(request, Paths(home / "results", cache=home / "cache"), _silent, **options)


@pytest.mark.fault(26)
def test_a_frozen_extractor_runs_once_an_image_and_is_not_changed(squares, tmp_path):
    job = resolve(_request(squares), None)
    job.runner.load()
    extractor = job.runner.extractor
    before = {name: each.clone() for name, each in extractor.state_dict().items()}
    execution = trials.TrialRunner(job, Store(tmp_path), "x", tmp_path / "cache")
    execution.run(None, _silent)
    assert isinstance(extractor, Edges)
    calls = extractor.calls
    assert execution.bank.images_computed == 10
    assert all(torch.equal(before[name], each) for name, each in extractor.state_dict().items())
    again = trials.TrialRunner(job, Store(tmp_path / "other"), "x", tmp_path / "cache")
    again.run(None, _silent)
    assert extractor.calls == calls  # all from the cache


def test_cached_maps_equal_fresh_ones_to_the_bit(squares, tmp_path):
    job = resolve(_request(squares), None)
    banks = [
        FeatureBank(job.runner, list(job.samples.values()), cache)
        for cache in (None, tmp_path / "c", tmp_path / "c")
    ]
    maps = [bank.maps([("i3", 0), ("i7", 0)])[0] for bank in banks]
    assert banks[2].images_computed == 0
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[1], maps[2])


@pytest.mark.fault(6)
def test_a_damaged_cache_entry_is_made_again(squares, tmp_path):
    job = resolve(_request(squares), None)
    samples = list(job.samples.values())
    whole = FeatureBank(job.runner, samples, tmp_path / "c").maps([("i3", 0)])[0]
    (entry,) = (tmp_path / "c").iterdir()
    entry.write_bytes(entry.read_bytes()[:50])
    again = FeatureBank(job.runner, samples, tmp_path / "c")
    assert torch.equal(again.maps([("i3", 0)])[0], whole)
    assert again.images_computed == 1


@pytest.mark.fault(8)
def test_a_full_disk_is_refused_before_extraction(squares, tmp_path, monkeypatch):
    job = resolve(_request(squares), None)
    bank = FeatureBank(job.runner, list(job.samples.values()), tmp_path / "c")
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("bench.features.bank.shutil.disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match="--no-cache"):
        bank.prepare(["i1", "i2"], _silent)


def test_an_extractor_that_trains_starts_anew_in_each_trial(squares, tmp_path):
    request = _request(squares, backbone="edges-training", folds=5)
    outcome = _run(request, tmp_path)
    assert outcome.record.facts["trainable_parameters"] == 112
    assert "untrained" not in outcome.record.flags
    job = resolve(request, None)
    alone = dataclasses.replace(job, trials=job.trials[3:4])
    (result,) = trials.TrialRunner(alone, Store(tmp_path / "alone"), "x", None).run(None, _silent)
    assert result == outcome.record.trials[3]


class Dropping(LinearHead):
    """A head that draws random numbers in training, and normalises by the batch."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__(channels, classes)
        self.norm = nn.BatchNorm2d(channels[0])

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        dropped = nn.functional.dropout(self.norm(maps[0]), 0.5, self.training)
        return super().forward([dropped], size)


@pytest.fixture
def dropping(monkeypatch) -> str:
    plugin = HeadPlugin("dropping", lambda channels, strides, classes: Dropping(channels, classes))
    shelf = registry.catalogue("heads").found
    monkeypatch.setitem(shelf, "dropping", [registry.LoadedPlugin(plugin, "this test")])
    return "dropping"


def test_a_head_that_draws_random_numbers_trains_the_same_each_time(squares, tmp_path, dropping):
    records = [
        _run(_request(squares, head=dropping), tmp_path / name).record for name in ("one", "two")
    ]
    assert records[0] == records[1]


def test_a_prediction_does_not_depend_on_what_is_scored_beside_it(squares, tmp_path, dropping):
    job = resolve(_request(squares, head=dropping), None)
    (trial,) = job.trials
    turned = dataclasses.replace(trial, test=trial.test[::-1])
    counts = []
    for name, own in (("a", trial), ("b", turned)):
        execution = trials.TrialRunner(
            dataclasses.replace(job, trials=[own]), Store(tmp_path / name), name, None
        )
        (result,) = execution.run(None, _silent)
        counts.append(dict(zip(result.images, result.counts["tp"], strict=True)))
    assert counts[0] == counts[1]


def test_two_draws_start_from_different_weights_and_the_same_draw_from_the_same(squares, tmp_path):
    job = resolve(_request(squares, head="light"), None)
    execution = trials.TrialRunner(job, Store(tmp_path), "x", None)
    first, again, other = (
        torch.cat([each.flatten() for each in execution._new_head(seed).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_learning_rate_falls_to_nought_along_a_cosine(squares, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noting(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    _run(_request(squares, epochs=20, lr=0.05), tmp_path)
    wanted = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    np.testing.assert_allclose(rates, wanted)


def test_training_finds_the_squares(squares, tmp_path):
    recipe = {"epochs": 300, "lr": 0.02}
    registry.get("metrics", "dice")
    for name in ("edges-frozen", "edges-training"):
        record = _run(_request(squares, backbone=name, **recipe), tmp_path).record
        assert scores_of_images(record, "dice").mean() > 0.8  # at half resolution


@pytest.mark.fault(1)
def test_a_run_that_is_stopped_goes_on_after_its_finished_trials(squares, tmp_path, monkeypatch):
    request = _request(squares, protocol="fewshot", shots=2, draws=4)
    whole = _run(request, tmp_path / "whole").record
    calls = []
    fit = trials.fit

    def stops_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(trials, "fit", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        _run(request, tmp_path)
    assert list(Store(tmp_path / "results").records()) == []
    resumed = _run(request, tmp_path).record
    assert len(calls) == 5  # two done, one stopped, two more
    assert resumed == whole


@pytest.mark.fault(12)
def test_logits_that_are_not_finite_fail_the_run(squares, tmp_path, monkeypatch):
    monkeypatch.setattr(View, "merge", lambda self, logits, size: torch.full((2, *size), np.nan))
    with pytest.raises(RunFailed, match="not finite"):
        _run(_request(squares), tmp_path)
    assert len(Store(tmp_path / "results").failures()) == 1


def test_masks_asked_for_later_are_made_and_the_record_stays(squares, tmp_path):
    first = _run(_request(squares), tmp_path)
    folder = Store(tmp_path / "results").folder(first.record.run_id)
    before = (folder / "record.json").read_bytes()
    again = _run(_request(squares), tmp_path, save_masks=True)
    assert again.record == first.record
    assert (folder / "record.json").read_bytes() == before
    assert sorted(path.stem for path in (folder / "masks").glob("*.png")) == again.record.images


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 5},
        {"lr": 0.051},
        {"seed": 1},
        {"folds": 2},
        {"input_px": 64},
        {"view": "tiles"},
        {"precision": "bf16"},
        {"head": "light"},
        {"limit": 3},
        {"backbone": "edges-training"},
    ],
    ids=str,
)
@pytest.mark.fault(18)
def test_whatever_could_change_a_number_changes_the_identity(squares, change):
    spec = resolve(_request(squares), None).spec
    assert resolve(_request(squares, **change), None).spec != spec


@pytest.mark.fault(17)
def test_a_moved_data_set_keeps_the_identity(squares, tmp_path):
    spec = resolve(_request(squares), None).spec
    (tmp_path / "elsewhere").mkdir()
    moved = squares.rename(tmp_path / "elsewhere" / "squares")
    assert resolve(_request(moved), None).spec == spec


def test_a_record_tells_no_folder_of_the_machine(squares, tmp_path):
    file = tmp_path / "private" / "edges.safetensors"
    file.parent.mkdir()
    state = FROZEN.build().state_dict()
    save_file({name: each + 0.1 for name, each in state.items()}, file)
    record = _run(_request(squares, checkpoint=file), tmp_path).record
    assert record.facts["weights_source"] == "file edges.safetensors"
    assert str(tmp_path).encode() not in to_bytes(record)
    assert str(squares).encode() not in to_bytes(record)


@pytest.mark.fault(16)
def test_a_patient_on_both_sides_is_refused_before_training(squares, tmp_path):
    manifest = squares / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",p7,", ",p1,"))
    with pytest.raises(BenchError, match="p1"):
        _run(_request(squares), tmp_path)


@pytest.mark.fault(16)
def test_one_picture_in_two_folds_is_refused(squares, tmp_path):
    samples = [dataclasses.replace(each) for each in data_folder.read(squares)]
    twin = Labelled("twin", *samples[0].read(), "train", "another patient")
    rest = [Labelled(s.id, *s.read(), s.split, s.patient) for s in samples]
    write([*rest, twin], tmp_path / "twins", about="a picture under two patients")
    assert _run(_request(tmp_path / "twins"), tmp_path).record  # both are trained on
    with pytest.raises(BenchError, match="twin"):
        _run(_request(tmp_path / "twins", folds=11), tmp_path)


@pytest.mark.fault(1)
def test_interrupted_masks_are_made_again(squares, tmp_path, monkeypatch):
    written = []
    real = trials.write_bytes

    def stops(path, content):
        if path.suffix == ".png":
            written.append(path)
            if len(written) == 3:
                raise KeyboardInterrupt
        return real(path, content)

    monkeypatch.setattr(trials, "write_bytes", stops)
    with pytest.raises(KeyboardInterrupt):
        _run(_request(squares), tmp_path, save_masks=True)
    outcome = _run(_request(squares), tmp_path, save_masks=True)
    masks = Store(tmp_path / "results").folder(outcome.record.run_id) / "masks"
    assert len(list(masks.glob("*.png"))) == 5


@pytest.mark.fault(6)
def test_a_damaged_record_is_put_aside_and_the_run_made_again(squares, tmp_path):
    first = _run(_request(squares), tmp_path)
    store = Store(tmp_path / "results")
    path = store.folder(first.record.run_id) / "record.json"
    path.write_bytes(path.read_bytes()[:99])
    again = _run(_request(squares), tmp_path)
    assert not again.cached
    assert again.record == first.record
    assert len(list((tmp_path / "results" / "quarantine").iterdir())) == 1


@pytest.mark.fault(26)
def test_two_metrics_that_count_under_one_name_are_refused():
    dice = registry.get("metrics", "dice")
    nothing = Prediction(np.zeros((4, 4), bool), np.zeros((4, 4), np.float32))
    truth = np.zeros((4, 4), np.int32)
    with pytest.raises(BenchError, match="tp"):
        trials.count([dice, dataclasses.replace(dice, name="other")], nothing, truth)


def test_a_runner_in_bfloat16_gives_maps_close_to_those_in_float32():
    extractor = Edges(True)
    images = torch.rand(2, 3, 16, 16)
    wide, narrow = (
        ExtractorRunner(extractor, View("whole", 16), torch.device("cpu"), precision)(images)[0]
        for precision in ("fp32", "bf16")
    )
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(wide, narrow, atol=0.02, rtol=0.02)


class Liar(Edges):
    """It promises half the stride that it has."""

    strides = (1,)

    def __init__(self) -> None:
        super().__init__(frozen=True)


class GivesATensor(Edges):
    def __init__(self) -> None:
        super().__init__(frozen=True)

    def forward(self, images: Tensor) -> Any:
        return super().forward(images)[0]


@pytest.mark.parametrize(
    ("build", "told"), [(Liar, r"strides \(1,\) require"), (GivesATensor, "a Tensor")]
)
@pytest.mark.fault(26)
def test_maps_that_were_not_promised_make_no_score(squares, tmp_path, monkeypatch, build, told):
    record = Backbone("liar", build, weights=Weights(needed=False))
    shelf = registry.catalogue("backbones").found
    monkeypatch.setitem(shelf, "liar", [registry.LoadedPlugin(record, "this test")])
    with pytest.raises(BenchError, match=told):
        _run(_request(squares, backbone="liar"), tmp_path)
    assert not list(Store(tmp_path / "results").records())
