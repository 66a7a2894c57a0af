"""Running a job: features, training, scoring, and going on after a stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry, trials
from bench.api import Backbone, Labelled, PlanOptions, Recipe, Weights
from bench.errors import BenchError, RunFailed
from bench.features import FeatureBank, Runner
from bench.folder import write
from bench.interface import FeatureExtractor
from bench.job import Request, resolve
from bench.run import Outcome, Places, execute
from bench.store import Store
from bench.views import View


class Edges(FeatureExtractor):
    """One convolution; frozen or not."""

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
        monkeypatch.setitem(shelf, record.name, [registry.Found(record, "this test")])
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


def _request(folder: Path, **changes: object) -> Request:
    request = Request(
        backbone="edges-frozen",
        dataset=str(folder),
        protocol="full",
        head="linear",
        recipe=Recipe(epochs=4, lr=0.05),
        input_px=32,
    )
    return dataclasses.replace(request, **changes)


def _silent(*_: object) -> None: ...


def _run(request: Request, home: Path, **options: bool) -> Outcome:
    return execute(request, Places(home / "results", cache=home / "cache"), _silent, **options)


def test_a_frozen_extractor_runs_once_an_image_and_is_not_changed(squares, tmp_path):
    job = resolve(_request(squares), None)
    extractor = job.runner.extractor
    before = {name: each.clone() for name, each in extractor.state_dict().items()}
    execution = trials.Execution(job, Store(tmp_path), "x", tmp_path / "cache")
    execution.run(None, _silent)
    assert isinstance(extractor, Edges)
    assert extractor.calls == 10
    assert all(torch.equal(before[name], each) for name, each in extractor.state_dict().items())
    again = trials.Execution(job, Store(tmp_path / "other"), "x", tmp_path / "cache")
    again.run(None, _silent)
    assert extractor.calls == 10  # all from the cache


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


def test_a_damaged_cache_entry_is_made_again(squares, tmp_path):
    job = resolve(_request(squares), None)
    samples = list(job.samples.values())
    whole = FeatureBank(job.runner, samples, tmp_path / "c").maps([("i3", 0)])[0]
    (entry,) = (tmp_path / "c").iterdir()
    entry.write_bytes(entry.read_bytes()[:50])
    again = FeatureBank(job.runner, samples, tmp_path / "c")
    assert torch.equal(again.maps([("i3", 0)])[0], whole)
    assert again.images_computed == 1


def test_a_full_disk_is_refused_before_extraction(squares, tmp_path, monkeypatch):
    job = resolve(_request(squares), None)
    bank = FeatureBank(job.runner, list(job.samples.values()), tmp_path / "c")
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("bench.features.shutil.disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match="--no-cache"):
        bank.prepare(["i1", "i2"], _silent)


def test_an_extractor_that_trains_is_trained_and_starts_anew_in_each_trial(squares, tmp_path):
    request = _request(squares, backbone="edges-training", plan=PlanOptions(folds=5))
    outcome = _run(request, tmp_path)
    assert outcome.record.facts["trainable_parameters"] == 112
    assert "untrained" not in outcome.record.flags
    few = _request(
        squares,
        backbone="edges-training",
        protocol="fewshot",
        plan=PlanOptions(shots=5, draws=2),
    )
    first, second = _run(few, tmp_path).record.trials
    assert set(first.train) == set(second.train)  # all five, so only seeds and order differ
    assert first.loss == pytest.approx(second.loss, rel=0.2)


def test_training_finds_the_squares(squares, tmp_path):
    recipe = Recipe(epochs=300, lr=0.02)
    dice = registry.get("metrics", "dice")
    for name in ("edges-frozen", "edges-training"):
        record = _run(_request(squares, backbone=name, recipe=recipe), tmp_path).record
        assert record.scores(dice, "dice").mean() > 0.8  # at half resolution


def test_a_run_that_is_stopped_goes_on_after_its_finished_trials(squares, tmp_path, monkeypatch):
    request = _request(squares, protocol="fewshot", plan=PlanOptions(shots=2, draws=4))
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
    assert sorted(path.stem for path in (folder / "masks").iterdir()) == again.record.images


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": Recipe(epochs=5, lr=0.05)},
        {"recipe": Recipe(epochs=4, lr=0.051)},
        {"plan": PlanOptions(seed=1)},
        {"plan": PlanOptions(folds=2)},
        {"input_px": 64},
        {"view": "tiles"},
        {"precision": "bf16"},
        {"head": "light"},
        {"limit": 3},
        {"backbone": "edges-training"},
    ],
    ids=str,
)
def test_whatever_could_change_a_number_changes_the_identity(squares, change):
    spec = resolve(_request(squares), None).spec
    assert resolve(_request(squares, **change), None).spec != spec


def test_a_moved_data_set_keeps_the_identity(squares, tmp_path):
    spec = resolve(_request(squares), None).spec
    (tmp_path / "elsewhere").mkdir()
    moved = squares.rename(tmp_path / "elsewhere" / "squares")
    assert resolve(_request(moved), None).spec == spec


def test_a_patient_on_both_sides_is_refused_before_training(squares, tmp_path):
    manifest = squares / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",p7,", ",p1,"))
    with pytest.raises(BenchError, match="p1"):
        _run(_request(squares), tmp_path)


def test_a_runner_in_bfloat16_gives_maps_close_to_those_in_float32():
    extractor = Edges(True)
    images = torch.rand(2, 3, 16, 16)
    wide, narrow = (
        Runner(extractor, View("whole", 16), torch.device("cpu"), precision)(images)[0]
        for precision in ("fp32", "bf16")
    )
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(wide, narrow, atol=0.02, rtol=0.02)
