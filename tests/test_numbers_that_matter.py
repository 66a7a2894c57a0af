"""Faults that would change a score or lose a run without an error: see tests/mutants."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crashes import Changes, Killed, watched
from PIL import Image
from tiny import FACTS, SPEC, request, run, squares
from torch import Tensor, nn

from bench.api import Backbone, Head, Recipe, Sample, board
from bench.api.nn import FeatureExtractor
from bench.api.record import Record
from bench.board import scores
from bench.features.bank import FeatureBank, cache_key
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.models import checkpoints
from bench.models.checkpoints import read_container
from bench.pretrain.config import PretrainConfig
from bench.pretrain.job import CHECKPOINTS, PretrainJob, prepare
from bench.pretrain.step import Learner
from bench.pretrain.trainer import train
from bench.runs.resolve import resolve
from bench.runs.trials import TrialRunner
from bench.store.files import write_bytes
from bench.store.results import Store
from bench.training.fit import TrainingSet, fit


class Normalised(FeatureExtractor):
    """The normalised images themselves."""

    channels, strides = (3,), (1,)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 0.2)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.normalise(images)]


def test_normalise_subtracts_the_mean_and_divides_by_the_standard_deviation() -> None:
    white = torch.ones(1, 3, 2, 2)
    (normalised,) = Normalised()(white)
    torch.testing.assert_close(normalised[0, :, 0, 0], torch.tensor([1.0, 3.0, 5.0]))
    torch.testing.assert_close(Normalised().normalise(0 * white)[0, 0, 0, 0], torch.tensor(-1.0))


def test_features_of_another_view_precision_or_extractor_have_another_cache_key() -> None:
    cpu = torch.device("cpu")
    runners = [
        ExtractorRunner(Normalised(), View("whole", 32), cpu, "fp32"),
        ExtractorRunner(Normalised(), View("tiles", 32), cpu, "fp32"),
        ExtractorRunner(Normalised(), View("whole", 64), cpu, "fp32"),
        ExtractorRunner(Normalised(), View("whole", 32), cpu, "bf16"),
    ]
    keys = {cache_key(weights, runner) for runner in runners for weights in ("one", "other")}
    assert len(keys) == 8
    assert cache_key("one", runners[0]) == cache_key(
        "one", ExtractorRunner(Normalised(), View("whole", 32), cpu)
    )


def test_runs_with_other_weights_use_another_folder_of_cached_features(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares", count=4)
    released = request(folder, backbone="cmd-tiny")
    jobs = [resolve(config, None) for config in (released, replace(released, weights="random"))]
    banks = [TrialRunner(job, Store(tmp_path), "run", tmp_path / "cache").bank for job in jobs]
    assert banks[0].cache is not None
    assert banks[0].cache != banks[1].cache


def test_the_mask_of_a_shrunk_image_is_enlarged_before_it_is_scored(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares", count=4)
    config = request(folder, epochs=20, lr=0.1)
    records = [run(replace(config, shift=name), tmp_path).record for name in ("", "scale-3")]
    clean, shrunk = (scores.score(each, "dice", board.BoardOptions()) for each in records)
    assert clean.summary.mean is not None
    assert shrunk.summary.mean is not None
    assert clean.summary.mean > 0.85
    assert shrunk.summary.mean > 0.7


def test_an_image_has_another_fingerprint_under_every_shift(tmp_path: Path) -> None:
    config = request(squares(tmp_path / "squares", count=4))
    jobs = [
        resolve(replace(config, shift=name), None) for name in ("", "blur-1", "blur-2", "jpeg-1")
    ]
    assert len({job.scored["i_02"].fingerprint for job in jobs}) == 4


def test_a_cached_head_is_not_used_for_other_training_images(tmp_path: Path) -> None:
    labels = request(squares(tmp_path / "squares", count=8), protocol="labels")
    run(replace(labels, fraction=1.0, draws=1), tmp_path)
    half = replace(labels, fraction=0.5, draws=1)
    cached, trained = run(half, tmp_path).record, run(half, tmp_path / "elsewhere").record
    assert cached == trained


def test_a_board_resamples_patients_unless_the_percentile_interval_is_requested(
    tmp_path: Path,
) -> None:
    record = run(request(squares(tmp_path / "squares", count=12)), tmp_path).record
    patients = {image: f"p{number % 3}" for number, image in enumerate(record.images)}
    record = replace(record, patients=patients)  # 6 images of 3 patients: too few
    patient_wise, image_wise = (
        scores.score(record, "dice", board.BoardOptions(ci=ci)).summary.interval
        for ci in ("expanded", "percentile")
    )
    assert patient_wise.low is None
    assert image_wise.low is not None


# ---- training --------------------------------------------------------------------------------


def test_trials_on_the_same_images_start_from_different_heads(tmp_path: Path) -> None:
    config = request(
        squares(tmp_path / "squares", count=4),
        protocol="labels",
        head="light",
        fraction=1.0,
        draws=2,
        epochs=1,
        lr=1e-9,
        batch_size=2,  # one batch, which changes nothing
    )
    first, second = run(config, tmp_path).record.trials
    assert sorted(first.train) == sorted(second.train)
    assert first.loss is not None
    assert first.loss != pytest.approx(second.loss, abs=1e-3)


class CountingHead(Head):
    """Note the number of foreground pixels of each target."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))
        self.seen: list[int] = []

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return self.bias.view(1, 2, 1, 1).expand(len(maps[0]), 2, *size)

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        self.seen.append(int(target.sum()))
        return super().training_loss(maps, target)


def test_the_seed_of_a_trial_orders_the_batches_and_every_epoch_has_another_order() -> None:
    image = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int32)
    sample = Sample("i", "train", "p", "", None, "i", lambda: image)
    bank = FeatureBank(
        ExtractorRunner(Normalised(), View("whole", 4), torch.device("cpu")), [sample], None
    )
    targets = [(torch.arange(16) < number).long().view(4, 4) for number in range(8)]
    orders = []
    for seed in (0, 0, 1):
        head = CountingHead()
        recipe = Recipe(epochs=2, batch_size=1)
        fit(head, TrainingSet(bank, [("i", 0)] * 8, targets), recipe, seed, lambda *_: None)
        assert sorted(head.seen[:8]) == sorted(head.seen[8:]) == list(range(8))
        assert head.seen[:8] != head.seen[8:]
        orders.append(head.seen)
    assert orders[0] == orders[1] != orders[2]


# ---- pretraining -----------------------------------------------------------------------------


class Scaled(nn.Module):
    """Predict the corrupted image times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor, t: Tensor, condition: None) -> Tensor:
        return self.scale * images


def _build_nothing() -> nn.Module:
    raise AssertionError("pretraining builds no extractor")


SCALED = Backbone(
    name="scaled",
    build=_build_nothing,  # type: ignore[arg-type]
    network=lambda *, cond_dim: Scaled(),
)
WHITE = torch.full((4, 3, 32, 32), 255, dtype=torch.uint8)


def _job(folder: Path, **changes: object) -> PretrainJob:
    """Prepare a pretraining on three white tiles."""
    (folder / "tiles").mkdir()
    for number in range(3):
        white = np.full((32, 32, 3), 255, np.uint8)
        Image.fromarray(white).save(folder / "tiles" / f"{number}.png")
    config = PretrainConfig(
        backbone="scaled",
        images=folder / "tiles",
        out=folder / "out",
        steps=1,
        batch_size=4,
        lr=0.1,
        ema=0.5,
        precision="fp32",
        crop_px=32,
        held_out=0,
    )
    return prepare(SCALED, replace(config, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["masked", "ddpm"])
def test_the_pretraining_loss_compares_the_prediction_with_the_clean_image(
    tmp_path: Path, objective: str
) -> None:
    learner = Learner(_job(tmp_path, objective=objective))
    learner.state.network.get_parameter("scale").data.zero_()
    loss, _ = learner.step(WHITE)  # white is 1 and the prediction 0, at every pixel
    assert loss == pytest.approx(1)


def test_the_network_is_shown_the_corrupted_image(tmp_path: Path) -> None:
    loss, _ = Learner(_job(tmp_path)).step(WHITE)  # the prediction is half of the input
    assert 0.5 < loss < 1  # 0.5 at pixels that are left, 1 at masked ones


def test_validation_reconstructs_with_the_averaged_weights(tmp_path: Path) -> None:
    learner = Learner(_job(tmp_path))
    learner.state.network.get_parameter("scale").data.fill_(5)
    learner.state.average.get_parameter("scale").data.fill_(0.5)
    generators = [torch.Generator().manual_seed(0)]
    corrupted, restored = learner.reconstruct(
        torch.ones(1, 3, 32, 32), torch.tensor([500]), generators
    )
    assert corrupted.max() == 1
    torch.testing.assert_close(restored, 0.5 * corrupted)


def test_probes_and_the_export_take_the_averaged_weights(tmp_path: Path) -> None:
    probed: list[float] = []

    def probe(weights: Mapping[str, Tensor], _: object) -> object:
        probed.append(float(weights["scale"]))
        return SimpleNamespace(summary=SimpleNamespace(mean=0.5))

    job = _job(tmp_path, steps=2, save_every=1, keep=0)
    config = replace(job.config, probe="squares", probe_every=1)
    outcome = train(replace(job, probe=probe, config=config), lambda *_: None)  # type: ignore[arg-type]
    contents = [read_container(path) for path in checkpoints.all_of(config.out / CHECKPOINTS)]
    assert all(isinstance(each, dict) for each in contents)
    raw, averaged = (
        [float(each[part]["scale"]) for each in contents]  # type: ignore[index]
        for part in ("network", "model")
    )
    assert probed == averaged != raw
    assert float(outcome.weights["scale"]) == averaged[-1] != raw[-1]


# ---- what outlasts a crash -------------------------------------------------------------------


@pytest.mark.fault(1)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_file_is_synced_before_it_gets_its_name_and_its_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "new" / "file", []

    def watch(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        synced.append((name if name in ("new", tmp_path.name) else "content", path.exists()))

    monkeypatch.setattr(os, "fsync", watch)
    write_bytes(path, b"content")
    assert synced == [("content", False), ("new", True), (tmp_path.name, True)]


@pytest.mark.fault(1)
def test_a_record_has_its_context_wherever_the_commit_was_killed(tmp_path: Path) -> None:
    record, context = Record(SPEC, FACTS, {}, (), ()), {"seconds": 1}
    stored = []
    for at in range(1, 100):
        store = Store(tmp_path / str(at))
        killed = False
        try:
            with watched(Changes(tmp_path, at)):
                store.commit(record, context)
        except Killed:
            killed = True
        stored.append(store.find(record.run_id) is not None)
        assert not stored[-1] or store.context(record.run_id) == context
        if not killed:
            break
    assert len(stored) > 10
    assert stored[0] is False
    assert stored[-1] is True
