"""Pretraining: the loss falls, a resumed run ends in the same bytes, and errors name the fix."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pretraining import (
    NARROW,
    content,
    job_of,
    newest,
    pretrain,
    quiet,
    weights_bytes,
    write_tiles,
)
from torch import Tensor, nn

from bench import registry
from bench.backbones.cmd.network import CMD
from bench.errors import BenchError, RunFailed
from bench.models import checkpoints
from bench.models.checkpoints import read_container, read_weights, sha256_of
from bench.models.load import open_backbone
from bench.pretrain import checkpoint
from bench.pretrain.batches import Batches
from bench.pretrain.export import export
from bench.pretrain.job import CHECKPOINTS
from bench.pretrain.tiles import Tile
from bench.pretrain.trainer import train


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted run of six steps."""
    out = tmp_path_factory.mktemp("whole")
    assert pretrain(images, out).finished
    return out


class Killed(BaseException):
    """A simulated crash; no `except Exception` catches it."""


def _killed_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress


def _losses(out: Path) -> list[str]:
    return [line.split(",")[1] for line in (out / "log.csv").read_text().splitlines()[1:]]


# ---- learning --------------------------------------------------------------------------------


def test_the_loss_falls_and_reconstructions_improve(images: Path, tmp_path: Path) -> None:
    options = {"ema": 0.8, "lr": 3e-3, "validate_every": 99, "picture_every": 99}
    before = pretrain(images, tmp_path, steps=1, **options).scores
    after = pretrain(images, tmp_path, steps=50, save_every=50, **options).scores
    losses = [float(loss) for loss in _losses(tmp_path)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert before is not None
    assert after is not None
    assert after.l1 < 0.7 * before.l1
    assert after.psnr > before.psnr


def test_weights_and_their_average_are_float32_in_bf16_training(
    images: Path, tmp_path: Path
) -> None:
    pretrain(images, tmp_path, steps=2, precision="bf16", ssim_weight=0.5, clip=1.0)
    saved = read_container(newest(tmp_path))
    assert isinstance(saved, dict)
    for part in ("network", "model"):
        assert {weight.dtype for weight in saved[part].values()} == {torch.float32}


def test_the_average_is_updated_after_each_step(images: Path, tmp_path: Path) -> None:
    job = job_of(images, tmp_path, steps=3, save_every=1, keep=0, ema=0.75)
    expected = {name: weight.clone() for name, weight in job.network.state_dict().items()}
    train(job, quiet)
    for path in checkpoints.all_of(tmp_path / CHECKPOINTS):
        saved = read_container(path)
        assert isinstance(saved, dict)
        for name, weight in saved["network"].items():
            expected[name] = 0.75 * expected[name] + 0.25 * weight
            torch.testing.assert_close(saved["model"][name], expected[name])


def test_gradient_accumulation_gives_the_weights_of_the_whole_batch(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    pretrain(images, tmp_path, accumulate=4)
    one, other = read_weights(newest(whole)).tensors, read_weights(newest(tmp_path)).tensors
    worst = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert 0 < worst < 1e-4


def test_clipping_changes_only_gradients_above_the_norm(images: Path, tmp_path: Path) -> None:
    for name, clip in (("off", 0.0), ("far", 1e9), ("near", 1e-3)):
        pretrain(images, tmp_path / name, steps=2, clip=clip)
    off, far, near = (weights_bytes(newest(tmp_path / name)) for name in ("off", "far", "near"))
    assert off == far != near


def test_the_condition_is_computed_from_the_unmasked_crop(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[tuple[Tensor, Tensor]] = []
    job = job_of(images, tmp_path, steps=1, condition="rgb")
    assert job.conditioner is not None
    assert job.identity["condition_weights"] == "none"
    forward = CMD.forward

    def recorded(self: CMD, masked: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        inputs.append((masked, condition))
        return forward(self, masked, t, condition)

    monkeypatch.setattr(CMD, "forward", recorded)
    train(job, quiet)
    masked, condition = inputs[0]
    assert condition.shape == (4, job.conditioner.width)
    crops = Batches(job.tiles, 4, 32, job.config.seed)[0].images / 255
    torch.testing.assert_close(condition, job.conditioner(crops))
    assert not torch.allclose(condition, job.conditioner((masked + 1) / 2))
    assert (masked == 0).any()


# ---- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5])  # before and after a checkpoint
@pytest.mark.fault(1)
def test_a_run_killed_at_any_step_ends_in_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    with pytest.raises(Killed):
        train(job_of(images, tmp_path), _killed_at(step))
    assert pretrain(images, tmp_path).finished
    assert content(tmp_path) == content(whole)
    assert _losses(tmp_path) == _losses(whole)


@pytest.mark.fault(1)
def test_a_run_killed_while_it_writes_a_checkpoint_ends_in_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_a_file(content: object, file: object) -> None:
        file.write(b"PK half")  # type: ignore[attr-defined]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", half_a_file)
        with pytest.raises(Killed):
            pretrain(images, tmp_path)
    assert checkpoints.all_of(tmp_path / CHECKPOINTS) == []
    pretrain(images, tmp_path)
    assert content(tmp_path) == content(whole)


@pytest.mark.fault(2)
def test_a_stopped_run_saves_its_step_and_ends_in_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    outcome = train(job_of(images, tmp_path), quiet, lambda: True)
    assert (outcome.step, outcome.finished) == (1, False)
    assert newest(tmp_path).name == "step-00000001.pt"
    pretrain(images, tmp_path)
    assert content(tmp_path) == content(whole)


def test_a_run_can_be_extended_but_not_shortened(images: Path, whole: Path, tmp_path: Path) -> None:
    pretrain(images, tmp_path, steps=4)
    pretrain(images, tmp_path)
    assert content(tmp_path) == content(whole)
    with pytest.raises(BenchError, match=r"for 6 steps already, more than --steps 5"):
        pretrain(images, tmp_path, steps=5)


def test_a_finished_run_trains_no_more(images: Path, whole: Path) -> None:
    before = newest(whole).stat().st_mtime_ns
    outcome = pretrain(images, whole)
    assert (outcome.finished, outcome.step) == (True, 6)
    assert outcome.loss == pytest.approx(np.mean([float(loss) for loss in _losses(whole)]))
    assert newest(whole).stat().st_mtime_ns == before


@pytest.mark.fault(31)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    pretrain(images, tmp_path / "same", workers=2)
    pretrain(images, tmp_path / "other", seed=1)
    assert content(tmp_path / "same") == content(whole)
    assert weights_bytes(newest(tmp_path / "other")) != weights_bytes(newest(whole))


class WithDropout(nn.Module):
    """A network that uses torch's global generator, and has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor, t: Tensor, condition: None) -> Tensor:
        return self.norm(nn.functional.dropout(self.conv(images), training=self.training))


def test_a_network_with_dropout_and_buffers_resumes_to_the_same_bytes(
    images: Path, tmp_path: Path
) -> None:
    backbone = replace(NARROW, network=lambda *, cond_dim: WithDropout())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(images, tmp_path / "whole", backbone)
    assert torch.equal(torch.rand(3), expected)  # the global generator is restored
    with pytest.raises(Killed):
        train(job_of(images, tmp_path / "killed", backbone), _killed_at(3))
    torch.rand(7)
    pretrain(images, tmp_path / "killed", backbone)
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


def test_a_run_can_start_from_the_averaged_weights_of_another(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    initial = read_weights(newest(whole)).tensors
    job = job_of(images, tmp_path, init=str(newest(whole)), crop_px=64)
    state = job.network.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in initial.items())
    card = export(job, train(job, quiet))
    assert card["init"] == f"sha256:{sha256_of(newest(whole))}"
    assert card["settings"]["init"] == newest(whole).name  # type: ignore[index]
    with pytest.raises(BenchError, match=r"other settings: init was sha256:\w+, now \."):
        pretrain(images, tmp_path, crop_px=64)
    with pytest.raises(BenchError, match=r"does not fit the network \("):
        job_of(images, tmp_path / "new", init=str(newest(whole)), condition="rgb")
    with pytest.raises(BenchError, match="there is no file of weights nowhere"):
        job_of(images, tmp_path / "new", init="nowhere")


def test_only_the_newest_checkpoints_are_kept(images: Path, tmp_path: Path) -> None:
    pretrain(images, tmp_path / "two", save_every=1, steps=4, keep=2)
    pretrain(images, tmp_path / "all", save_every=1, steps=4, keep=0)
    steps = [path.stem for path in checkpoints.all_of(tmp_path / "two" / CHECKPOINTS)]
    assert steps == ["step-00000003", "step-00000004"]
    assert len(checkpoints.all_of(tmp_path / "all" / CHECKPOINTS)) == 4


# ---- output files ----------------------------------------------------------------------------


def test_pictures_show_tiles_masked_and_reconstructed(images: Path, whole: Path) -> None:
    files = sorted((whole / "pictures").iterdir())
    assert [path.name for path in files] == ["step-00000003.png", "step-00000006.png"]
    grid = np.asarray(Image.open(files[0]))
    name, text = 40, 16  # px: left of each row; above all rows, and below each
    assert grid.shape == (text + 2 * (32 + text), name + 7 * 36 - 4, 3)
    tile = np.asarray(Image.open(images / "00.png"))[4:36, 4:36]
    assert np.array_equal(grid[16:48, name : name + 32], tile)
    assert (grid[16:48, :name] < 128).any()  # the name of the tile
    below = [(grid[48:64, name + 36 * n :][:, :36] < 128).any() for n in range(7)]
    assert [below[n] for n in (0, 2, 4, 6)] == [False, True, True, True]  # the PSNR
    grey = [(grid[16:48, name + 36 * n :][:, :32] == 128).all(axis=2).mean() for n in (1, 3, 5)]
    assert grey == [int(16 * t / 1001) / 16 for t in (100, 500, 900)]


def test_the_log_and_tensorboard_have_one_row_per_step(whole: Path) -> None:
    header, *rows = [line.split(",") for line in (whole / "log.csv").read_text().splitlines()]
    assert header[:4] == ["step", "loss", "gradient_norm", "images_per_s"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [bool(row[4]) for row in rows] == [False, False, True] * 2
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(
        [float(row[1]) for row in rows]
    )
    assert [event.step for event in board.Scalars("val_l1")] == [3, 6]


def test_the_same_training_exports_the_same_weights_and_card(images: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        job = job_of(images, tmp_path / name, steps=2)
        export(job, train(job, quiet))
    for name in ("card.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert (card["architecture"], card["steps"], card["condition"]) == ("narrow", 2, "none")
    assert card["parameters"] == sum(weight.numel() for weight in CMD(8).parameters())
    assert card["images"]["sources"] == {".": 12}
    assert (card["images"]["trained_on"], card["images"]["held_out"]) == (10, 2)


def test_exported_weights_give_the_features_of_the_average(images: Path, tmp_path: Path) -> None:
    backbone = registry.get("backbones", "cmd-tiny")
    job = job_of(images, tmp_path, backbone, backbone="cmd-tiny", batch_size=2, steps=2)
    outcome = train(job, quiet)
    export(job, outcome)
    network = CMD(64)
    network.load_state_dict(outcome.weights)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for source in (tmp_path, newest(tmp_path)):
        opened = open_backbone("cmd-tiny", checkpoint=source)
        assert not opened.untrained
        with torch.inference_mode():
            maps = opened.extractor(pixels)
            expected = network.features(2 * pixels - 1, torch.tensor([50]), None, (9, 8, 6))
        for level, expected_level in zip(maps, expected, strict=True):
            torch.testing.assert_close(level, expected_level)


# ---- errors ----------------------------------------------------------------------------------


def test_the_learning_rate_may_change_on_resuming_and_the_card_records_when(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    pretrain(images, tmp_path, steps=4)
    job = job_of(images, tmp_path, lr=1e-4)
    card = export(job, train(job, quiet))
    before, after = {"lr": 1e-3, "clip": 0.0, "after": 0}, {"lr": 1e-4, "clip": 0.0, "after": 4}
    assert card["tuned"] == [before, after]
    assert _losses(tmp_path)[:5] == _losses(whole)[:5]  # the fifth is computed before its update
    assert _losses(tmp_path)[5] != _losses(whole)[5]
    assert pretrain(images, tmp_path, lr=1e-3).tuned == [before, after]  # no step was trained


def test_changed_settings_images_or_networks_raise_on_resuming(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    wider = replace(NARROW, network=lambda *, cond_dim: CMD(12, cond_dim))
    fewer = write_tiles(tmp_path, count=11)
    for folder, plugin, changes, message in (
        (images, NARROW, {"ema": 0.9}, r"other settings: ema was 0\.5, now 0\.9\."),
        (fewer, NARROW, {}, "other settings: images was "),
        (images, wider, {}, "does not fit the network of narrow"),
        (images, wider, {"backbone": "wide"}, "backbone was narrow, now wide"),
    ):
        with pytest.raises(BenchError, match=message):
            pretrain(folder, whole, plugin, **changes)


@pytest.mark.fault(6)
def test_a_checkpoint_with_a_flipped_bit_raises_with_its_name(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / CHECKPOINTS / newest(whole).name
    path.parent.mkdir()
    intact = newest(whole).read_bytes()
    saved = read_container(newest(whole))
    assert isinstance(saved, dict)
    for part in ("network", "model"):
        weight = saved[part]["encoder.0.expand.weight"].numpy().tobytes()
        flipped = bytearray(intact)
        flipped[intact.index(weight) + 100] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(BenchError, match=rf"{path.name}.* Or delete it"):
            pretrain(images, tmp_path)


@pytest.mark.fault(19)
def test_a_checkpoint_that_would_run_code_raises(images: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS).mkdir()
    torch.save({"format": 1, "step": Path("x")}, tmp_path / CHECKPOINTS / "step-00000001.pt")
    with pytest.raises(BenchError, match=r"step-00000001\.pt"):
        pretrain(images, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard
@pytest.mark.parametrize("room", [0, 200_000])
def test_a_full_disk_raises_and_leaves_no_checkpoint(
    images: Path, tmp_path: Path, room: int
) -> None:
    job = job_of(images, tmp_path, steps=1, held_out=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(BenchError, match=r"cannot write"):
            train(job, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoints.all_of(tmp_path / CHECKPOINTS) == []


@pytest.mark.fault(8)
def test_a_disk_that_fills_up_leaves_the_old_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(images, tmp_path, steps=2)

    def full(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(BenchError, match="No space left"):
        pretrain(images, tmp_path)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000002.pt"]


@pytest.mark.fault(8)
def test_a_disk_that_is_too_small_raises_before_training(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match=r"3 checkpoints .* GiB free\. Keep fewer"):
        job_of(images, tmp_path)


@pytest.mark.fault(12)
def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(
    images: Path, tmp_path: Path
) -> None:
    job = job_of(images, tmp_path)

    def poison(stage: str, done: int, total: int) -> None:
        if done == 3:
            with torch.no_grad():
                next(job.network.parameters()).fill_(float("nan"))

    with pytest.raises(RunFailed, match=r"at step 4 the loss is nan .*step-00000002\.pt"):
        train(job, poison)
    assert newest(tmp_path).name == "step-00000002.pt"
    assert all(
        weight.isfinite().all() for weight in read_weights(newest(tmp_path)).tensors.values()
    )


def test_too_many_damaged_images_stop_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[str] = set()
    read = Tile.read

    def damaged(self: Tile) -> np.ndarray:
        if self.name in broken:
            raise BenchError(f"{self.name} is damaged")
        return read(self)

    monkeypatch.setattr(Tile, "read", damaged)
    job = job_of(images, tmp_path / "one")
    broken.update([job.tiles[3].name, job.held_out[0].name])
    outcome = train(job, quiet)
    assert outcome.finished
    assert sorted(outcome.refused) == sorted(broken)
    job = job_of(images, tmp_path / "all")
    broken.update(tile.name for tile in job.tiles)
    with pytest.raises(BenchError, match=r"of 10 images cannot be used, and 9 are allowed"):
        train(job, quiet)


def test_an_average_dominated_by_the_initial_weights_gives_a_note(
    images: Path, tmp_path: Path
) -> None:
    _, note = job_of(images, tmp_path, ema=0.9999, crop_px=32).notes  # the first counts images
    assert "averaged weights will be 100%" in note
    assert len(job_of(images, tmp_path, ema=0.1).notes) == 1
