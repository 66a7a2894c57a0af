"""Runs under a shift or on another data set use the cached head of the plain run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bench.api import Labelled
from bench.api.record import Record
from bench.api.run_config import RunConfig
from bench.board import scores
from bench.data.folder import write
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.runs import trials
from bench.runs.execute import Paths, execute
from bench.runs.head_cache import load, save
from bench.runs.resolve import resolve
from bench.training.fit import Fitted

FITTED = Fitted(0.125, {"steps": 3})


def _set(home: Path, name: str, seed: int, patient: str = "p") -> Path:
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(6):
        instances = np.zeros((24, 24), np.int32)
        instances[4 : 8 + number, 3:18] = 1
        image = np.where(instances[..., None] > 0, 70, 190) + generator.integers(0, 30, (24, 24, 3))
        split = "train" if number < 3 else "test"
        owner = f"{patient}{seed}{number}"
        samples.append(Labelled(f"i{number}", image.astype(np.uint8), instances, split, owner))
    write(samples, home / name, about=name)
    return home / name


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return _set(tmp_path, "cells", 0)


def _request(folder: Path, **changes: Any) -> RunConfig:
    plain = RunConfig(backbone="rgb", dataset=str(folder), epochs=3, lr=0.05, folds=0, input_px=24)
    return dataclasses.replace(plain, **changes)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with one entry per training."""
    calls: list[int] = []
    fit = trials.fit
    monkeypatch.setattr(trials, "fit", lambda *args: calls.append(1) or fit(*args))
    return calls


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Record]:
    places = Paths(tmp_path / "results", cache=tmp_path / "cache")
    return lambda request: execute(request, places, lambda *_: None).record


def test_a_shifted_run_uses_the_cached_head_of_the_plain_run(
    cells: Path, run: Callable[..., Record], tmp_path: Path, fits: list[int]
) -> None:
    plain = run(_request(cells))
    shifted = run(_request(cells, shift="brightness-3"))
    assert len(fits) == 1
    assert shifted.run_id != plain.run_id
    assert [trial.loss for trial in shifted.trials] == [trial.loss for trial in plain.trials]
    assert shifted.trials[0].counts != plain.trials[0].counts
    assert "(brightness-3)" in scores.dataset_name(shifted)
    assert scores.difference(shifted, plain, "dice").mean is not None
    trained = execute(
        _request(cells, shift="brightness-3"), Paths(tmp_path / "elsewhere"), lambda *_: None
    ).record
    assert len(fits) == 2
    assert shifted == trained


def test_another_training_does_not_use_the_cached_head(
    cells: Path, run: Callable[..., Record], fits: list[int]
) -> None:
    plain = _request(cells, protocol="full", head="linear")
    for config, trainings in ((plain, 1), (plain, 1), (_request(cells, epochs=4), 2)):
        run(dataclasses.replace(config, protocol="full", head="linear"))
        assert len(fits) == trainings
    run(dataclasses.replace(plain, head="light", epochs=1))
    assert len(fits) == 3


def test_only_scored_images_are_shifted(cells: Path) -> None:
    job = resolve(_request(cells, shift="stain-2"), None)
    image, instances = job.samples["i4"].read()
    shifted, same = job.scored["i4"].read()
    assert np.array_equal(shifted, shift("stain-2").apply(image))
    assert np.array_equal(instances, same)
    assert job.samples["i4"].fingerprint != job.scored["i4"].fingerprint


def test_a_head_is_scored_on_the_test_images_of_another_data_set(
    cells: Path, tmp_path: Path, run: Callable[..., Record], fits: list[int]
) -> None:
    other = _set(tmp_path, "other", 1)
    record = run(_request(cells, target_dataset=str(other)))
    native = run(_request(other))
    assert len(fits) == 2
    assert record.images == native.images == ["i3", "i4", "i5"]
    assert set(record.patients.values()) == {"p13", "p14", "p15"}
    assert scores.dataset_name(record) == "cells to other"
    assert scores.difference(record, native, "dice").n_patients == 3
    assert run(_request(cells)).run_id != record.run_id
    assert len(fits) == 2


def test_unsuitable_options_are_refused(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="leave --folds out"):
        resolve(_request(cells, target_dataset=str(cells), folds=2), None)
    with pytest.raises(BenchError, match="unknown shift 'fog'"):
        resolve(_request(cells, shift="fog"), None)


def test_a_patient_in_both_data_sets_is_refused(
    cells: Path, tmp_path: Path, run: Callable[..., Record]
) -> None:
    again = _set(tmp_path, "again", 0)
    turned = (again / "manifest.csv").read_text().replace(",test,", ",?,")
    turned = turned.replace(",train,", ",test,").replace(",?,", ",train,")
    (again / "manifest.csv").write_text(turned)
    with pytest.raises(BenchError, match="p00' is in test and training"):
        run(_request(cells, target_dataset=str(again)))


# ---- the cache of heads ----------------------------------------------------------------------


def test_trainable_weights_and_buffers_are_cached(
    tmp_path: Path,
) -> None:
    head, frozen = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
    head.running_mean.fill_(2.5)  # type: ignore[union-attr]
    save(tmp_path / "h.safetensors", {"head": head, "extractor": frozen}, FITTED, large=False)
    names = set(safetensors.torch.load_file(tmp_path / "h.safetensors"))
    assert names == {f"head.{name}" for name in head.state_dict()}
    other = torch.nn.BatchNorm2d(3)
    before = frozen.weight.clone()
    assert load(tmp_path / "h.safetensors", {"head": other, "extractor": frozen}) == FITTED
    assert torch.equal(other.running_mean, head.running_mean)  # type: ignore[arg-type]
    assert torch.equal(frozen.weight, before)


def test_a_damaged_or_unsuitable_file_counts_as_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "h.safetensors"
    head = torch.nn.Linear(3, 2)
    assert load(file, {"head": head}) is None
    save(file, {"head": head}, FITTED, large=False)
    assert load(file, {"head": torch.nn.Linear(4, 2)}) is None
    file.write_bytes(file.read_bytes()[:40])
    assert load(file, {"head": head}) is None
    monkeypatch.setattr("bench.runs.head_cache.LARGEST_BYTES", 8)
    save(tmp_path / "small", {"head": head}, FITTED, large=False)
    save(tmp_path / "large", {"head": head}, FITTED, large=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.safetensors", "large"]
