"""Training goes down, goes on as if it had never stopped, and refuses what would go wrong."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone
from bench.backbones.cmd.network import CMD
from bench.errors import BenchError, RunFailed
from bench.models import checkpoints
from bench.models.checkpoints import read_container, read_state, sha256_of
from bench.models.load import open_backbone
from bench.pretrain import checkpoint
from bench.pretrain.batches import Batches
from bench.pretrain.config import Routine, Settings
from bench.pretrain.export import export
from bench.pretrain.job import CHECKPOINTS, Job, prepare
from bench.pretrain.tiles import Tile
from bench.pretrain.trainer import Outcome, train

SETTINGS = Settings("narrow", batch_size=4, lr=1e-3, ema=0.5, precision="fp32", crop_px=32)
SETTINGS = replace(SETTINGS, held_out=2)
ROUTINE = Routine(steps=6, save_every=2, picture_every=3, validate_every=3)


def _network(*, cond_dim: int | None) -> nn.Module:
    return CMD(8, cond_dim)


def _no_extractor() -> nn.Module:
    raise AssertionError("pretraining builds no extractor")


NARROW = Backbone(name="narrow", build=_no_extractor, network=_network)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 tiles of 40 px: coloured discs on a pale ground."""
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    for number in range(12):
        pixels = np.full((40, 40, 3), (230, 200, 220), np.uint8)
        for y, x in rng.integers(0, 40, (6, 2)):
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 25] = (110, 60, 140)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def _quiet(stage: str, done: int, total: int) -> None: ...


def _job(images: Path, out: Path, routine: Routine = ROUTINE, **changed: object) -> Job:
    settings = replace(SETTINGS, **changed)  # type: ignore[arg-type]
    return prepare(NARROW, settings, routine, images, out)


def _train(images: Path, out: Path, routine: Routine = ROUTINE, **changed: object) -> Outcome:
    return train(_job(images, out, routine, **changed), _quiet)


def _newest(out: Path) -> Path:
    return checkpoints.all_of(out / CHECKPOINTS)[-1]


def _kept(out: Path) -> dict[str, object]:
    """Give everything that the newest checkpoint holds, flat, each tensor as its bytes."""
    return dict(_flat(read_container(_newest(out)), _newest(out).name))


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Tensor):
        yield name, (str(value.dtype), value.shape, value.stride(), value.numpy().tobytes())
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name}/{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _flat(each, f"{name}/{number}")
    else:
        yield name, value


class Killed(BaseException):
    """What a crash raises, so that nothing on the way catches it."""


def _killed_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress


def _losses(out: Path) -> list[str]:
    return [line.split(",")[1] for line in (out / "log.csv").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert _train(images, out).finished
    return out


# ---- learning --------------------------------------------------------------------------------


def test_the_loss_falls_and_held_out_tiles_come_nearer(images: Path, tmp_path: Path) -> None:
    routine = Routine(steps=60, validate_every=1, picture_every=60, save_every=60)
    outcome = _train(images, tmp_path, routine, ema=0.8, lr=3e-3)
    losses = [float(each) for each in _losses(tmp_path)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    first = (tmp_path / "log.csv").read_text().splitlines()[1].split(",")
    assert outcome.scores is not None
    assert outcome.scores.l1 < 0.7 * float(first[4])
    assert outcome.scores.psnr > float(first[5])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_and_their_average_stay_in_float32(
    images: Path, tmp_path: Path, precision: str
) -> None:
    _train(images, tmp_path, precision=precision, ssim_weight=0.5, clip=1.0)
    content = read_container(_newest(tmp_path))
    assert isinstance(content, dict)
    for part in ("network", "model"):
        assert {each.dtype for each in content[part].values()} == {torch.float32}


def test_the_average_is_that_of_the_weights_after_each_step(images: Path, tmp_path: Path) -> None:
    routine = replace(ROUTINE, steps=3, save_every=1, keep=0)
    job = _job(images, tmp_path, routine, ema=0.75)
    wanted = {name: each.clone() for name, each in job.network.state_dict().items()}
    train(job, _quiet)
    for path in checkpoints.all_of(tmp_path / CHECKPOINTS):
        content = read_container(path)
        assert isinstance(content, dict)
        for name, each in content["network"].items():
            wanted[name] = 0.75 * wanted[name] + 0.25 * each
            torch.testing.assert_close(content["model"][name], wanted[name])


def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    _train(images, tmp_path, accumulate=4)
    one, other = read_state(_newest(whole)), read_state(_newest(tmp_path))
    worst = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert 0 < worst < 1e-4


def test_clipping_bounds_the_step_of_the_first_gradient(images: Path, tmp_path: Path) -> None:
    for name, clip in (("off", 0.0), ("far", 1e9), ("near", 1e-3)):
        _train(images, tmp_path / name, clip=clip)
    off, far, near = (_newest(tmp_path / name) for name in ("off", "far", "near"))
    assert _weights_bytes(off) == _weights_bytes(far) != _weights_bytes(near)


def _weights_bytes(path: Path) -> bytes:
    return b"".join(each.numpy().tobytes() for each in read_state(path).values())


def test_the_condition_is_that_of_the_unmasked_crop(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    job = _job(images, tmp_path, replace(ROUTINE, steps=1), condition="rgb")
    assert job.conditioner is not None
    assert job.identity["condition_weights"] == "none"
    forward = CMD.forward

    def watched(self: CMD, masked: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        seen.append((masked, condition))
        return forward(self, masked, t, condition)

    monkeypatch.setattr(CMD, "forward", watched)
    train(job, _quiet)
    masked, condition = seen[0]
    assert condition.shape == (4, job.conditioner.width)
    crops = Batches(job.tiles, 4, 32, SETTINGS.seed)[0].images / 255
    torch.testing.assert_close(condition, job.conditioner(crops))
    assert not torch.allclose(condition, job.conditioner((masked + 1) / 2))
    assert (masked == 0).any()


# ---- going on --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.fault(1)
def test_a_run_killed_at_any_step_ends_in_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    with pytest.raises(Killed):
        train(_job(images, tmp_path), _killed_at(step))
    outcome = _train(images, tmp_path)
    assert outcome.finished
    assert _kept(tmp_path) == _kept(whole)
    assert _losses(tmp_path) == _losses(whole)


@pytest.mark.fault(1)
def test_a_run_killed_while_a_checkpoint_is_written_ends_in_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", _half_a_file)
        with pytest.raises(Killed):
            _train(images, tmp_path)
    assert checkpoints.all_of(tmp_path / CHECKPOINTS) == []
    _train(images, tmp_path)
    assert _kept(tmp_path) == _kept(whole)


def _half_a_file(content: object, file: object) -> None:
    file.write(b"PK half")  # type: ignore[attr-defined]
    raise Killed


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.fault(2)
def test_a_run_that_is_asked_to_stop_saves_that_step_and_goes_on_to_the_same_bytes(
    images: Path, whole: Path, tmp_path: Path, at: int
) -> None:
    asked = iter([False] * (at - 1) + [True] * 9)
    outcome = train(_job(images, tmp_path), _quiet, lambda: next(asked))
    assert (outcome.step, outcome.finished) == (at, False)
    assert _newest(tmp_path).name == f"step-{at:08d}.pt"
    _train(images, tmp_path)
    assert _kept(tmp_path) == _kept(whole)


def test_more_steps_may_be_asked_for_later_and_fewer_may_not(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    _train(images, tmp_path, replace(ROUTINE, steps=4))
    _train(images, tmp_path)
    assert _kept(tmp_path) == _kept(whole)
    with pytest.raises(BenchError, match=r"for 6 steps already, more than --steps 5"):
        _train(images, tmp_path, replace(ROUTINE, steps=5))


def test_a_run_at_its_end_trains_no_more(images: Path, whole: Path) -> None:
    before = _newest(whole).stat().st_mtime_ns
    outcome = _train(images, whole)
    assert (outcome.finished, outcome.step) == (True, 6)
    assert outcome.loss == pytest.approx(np.mean([float(each) for each in _losses(whole)]))
    assert _newest(whole).stat().st_mtime_ns == before


@pytest.mark.fault(31)
def test_the_same_seed_gives_the_same_bytes_with_workers_and_another_does_not(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    _train(images, tmp_path / "same", replace(ROUTINE, workers=2))
    _train(images, tmp_path / "other", seed=1)
    assert _kept(tmp_path / "same") == _kept(whole)
    assert _weights_bytes(_newest(tmp_path / "other")) != _weights_bytes(_newest(whole))


class Dropped(nn.Module):
    """A network that draws from the ambient generator, and has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor, t: Tensor, condition: None) -> Tensor:
        return self.norm(nn.functional.dropout(self.conv(images), training=self.training))


def test_a_network_with_dropout_and_buffers_goes_on_to_the_same_bytes(
    images: Path, tmp_path: Path
) -> None:
    own = replace(NARROW, network=lambda *, cond_dim: Dropped())
    for name in ("whole", "killed"):
        job = prepare(own, SETTINGS, ROUTINE, images, tmp_path / name)
        if name == "killed":
            with pytest.raises(Killed):
                train(job, _killed_at(3))
            torch.rand(7)
            job = prepare(own, SETTINGS, ROUTINE, images, tmp_path / name)
        train(job, _quiet)
    assert _kept(tmp_path / "whole") == _kept(tmp_path / "killed")


def test_training_leaves_the_ambient_generator_alone(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    _train(images, tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def test_a_run_may_begin_with_the_averaged_weights_of_another(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    wanted = read_state(_newest(whole))
    job = _job(images, tmp_path, init=str(_newest(whole)), crop_px=64)
    found = job.network.state_dict()
    assert all(torch.equal(found[name], each) for name, each in wanted.items())
    card = export(job, train(job, _quiet))
    assert card["init"] == f"sha256:{sha256_of(_newest(whole))}"
    assert card["settings"]["init"] == _newest(whole).name  # type: ignore[index]
    with pytest.raises(BenchError, match=r"other settings: init was sha256:\w+, now \."):
        _train(images, tmp_path, crop_px=64)


def test_weights_to_begin_with_that_do_not_fit_are_refused(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=r"does not fit the network \("):
        _job(images, tmp_path, init=str(_newest(whole)), condition="rgb")
    with pytest.raises(BenchError, match="there is no file of weights nowhere"):
        _job(images, tmp_path, init="nowhere")


def test_only_the_newest_checkpoints_are_kept(images: Path, tmp_path: Path) -> None:
    routine = replace(ROUTINE, save_every=1)
    _train(images, tmp_path / "two", replace(routine, keep=2))
    _train(images, tmp_path / "all", replace(routine, keep=0))
    steps = [path.stem for path in checkpoints.all_of(tmp_path / "two" / CHECKPOINTS)]
    assert steps == ["step-00000005", "step-00000006"]
    assert len(checkpoints.all_of(tmp_path / "all" / CHECKPOINTS)) == 6


# ---- what is left behind ---------------------------------------------------------------------


def test_the_pictures_show_tiles_masked_and_reconstructed(images: Path, whole: Path) -> None:
    files = sorted((whole / "pictures").iterdir())
    assert [path.name for path in files] == ["step-00000003.png", "step-00000006.png"]
    grid = np.asarray(Image.open(files[0]))
    name, words = 40, 16  # left of each row; above all rows, and below each
    assert grid.shape == (words + 2 * (32 + words), name + 7 * 36 - 4, 3)
    tile = np.asarray(Image.open(images / "00.png"))[4:36, 4:36]
    assert np.array_equal(grid[16:48, name : name + 32], tile)
    assert (grid[16:48, :name] < 128).any()  # the name of the tile
    below = [(grid[48:64, name + 36 * n :][:, :36] < 128).any() for n in range(7)]
    assert [below[n] for n in (2, 4, 6)] == [True] * 3  # decibels of what was restored
    assert not below[0]
    grey = [(grid[16:48, name + 36 * n :][:, :32] == 128).all(axis=2).mean() for n in (1, 3, 5)]
    assert grey == [int(16 * t / 1001) / 16 for t in (100, 500, 900)]


def test_the_log_has_a_line_a_step_and_the_validation_where_it_was_due(whole: Path) -> None:
    lines = [line.split(",") for line in (whole / "log.csv").read_text().splitlines()]
    assert lines[0][:4] == ["step", "loss", "gradient_norm", "images_per_s"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert [bool(line[4]) for line in lines[1:]] == [False, False, True] * 2


def test_tensorboard_shows_what_the_table_holds(images: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _train(images, tmp_path)
    board = events.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [each.step for each in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    shown = [each.value for each in board.Scalars("loss")]
    assert shown == pytest.approx([float(each) for each in _losses(tmp_path)])
    assert [each.step for each in board.Scalars("val_l1")] == [3, 6]


def test_the_card_tells_what_the_weights_are(images: Path, tmp_path: Path) -> None:
    cards = []
    for name in ("a", "b"):
        job = _job(images, tmp_path / name)
        cards.append(export(job, train(job, _quiet)))
    assert cards[0] == cards[1]
    told = json.loads((tmp_path / "a" / "card.json").read_text())
    assert told == json.loads(json.dumps(cards[0]))
    assert (told["architecture"], told["steps"], told["condition"]) == ("narrow", 6, "none")
    assert told["parameters"] == sum(each.numel() for each in CMD(8).parameters())
    assert told["images"]["sources"] == {".": 12}
    assert (told["images"]["trained_on"], told["images"]["held_out"]) == (10, 2)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_the_exported_weights_give_the_features_of_the_average(
    images: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, backbone="cmd-tiny", batch_size=2)
    routine = replace(ROUTINE, steps=2)
    record = registry.get("backbones", "cmd-tiny")
    job = prepare(record, settings, routine, images, tmp_path)
    outcome = train(job, _quiet)
    export(job, outcome)
    network = CMD(64)
    network.load_state_dict(outcome.weights)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for source in (tmp_path, _newest(tmp_path)):
        opened = open_backbone("cmd-tiny", checkpoint=source)
        with torch.inference_mode():
            maps = opened.extractor(pixels)
            t = torch.tensor([50])
            wanted = network.features(2 * pixels - 1, t, None, (9, 8, 6))
        assert not opened.untrained
        for told, right in zip(maps, wanted, strict=True):
            torch.testing.assert_close(told, right)


# ---- refusals --------------------------------------------------------------------------------


def test_a_run_goes_on_with_another_learning_rate_and_its_card_tells_when(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    _train(images, tmp_path, replace(ROUTINE, steps=4))
    job = _job(images, tmp_path, lr=1e-4)
    outcome = train(job, _quiet)
    card = export(job, outcome)
    before, after = {"lr": 1e-3, "clip": 0.0, "after": 0}, {"lr": 1e-4, "clip": 0.0, "after": 4}
    assert card["tuned"] == [before, after]
    assert _losses(tmp_path)[:5] == _losses(whole)[:5]  # the fifth comes before its step
    assert _losses(tmp_path)[5] != _losses(whole)[5]
    assert _train(images, tmp_path, lr=1e-3).tuned == [before, after]  # nothing was trained anew


@pytest.mark.parametrize(
    ("name", "value"), [("ema", 0.9), ("seed", 1), ("batch_size", 2), ("schedule", "t/T")]
)
def test_a_changed_setting_is_refused_by_name(
    images: Path, whole: Path, name: str, value: object
) -> None:
    with pytest.raises(BenchError, match=rf"other settings: {name} was .*, now {value}\."):
        _train(images, whole, ROUTINE, **{name: value})


def test_a_changed_folder_of_images_is_refused(images: Path, whole: Path, tmp_path: Path) -> None:
    for path in sorted(images.iterdir())[1:]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BenchError, match=r"other settings: images was "):
        _train(tmp_path, whole)


def test_the_checkpoint_of_another_architecture_is_refused(images: Path, whole: Path) -> None:
    wider = replace(NARROW, network=lambda *, cond_dim: CMD(12, cond_dim))
    with pytest.raises(BenchError, match=r"does not fit the network of narrow"):
        train(prepare(wider, SETTINGS, ROUTINE, images, whole), _quiet)
    other = replace(SETTINGS, backbone="wide")
    with pytest.raises(BenchError, match=r"backbone was narrow, now wide"):
        train(prepare(wider, other, ROUTINE, images, whole), _quiet)


@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_a_truncated_checkpoint_is_refused_by_name(
    images: Path, whole: Path, tmp_path: Path, kept: int
) -> None:
    path = tmp_path / CHECKPOINTS / _newest(whole).name
    path.parent.mkdir()
    path.write_bytes(_newest(whole).read_bytes()[:kept])
    with pytest.raises(BenchError, match=path.name):
        _train(images, tmp_path)


@pytest.mark.fault(6)
def test_a_checkpoint_with_a_flipped_bit_is_refused_by_name(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / CHECKPOINTS / _newest(whole).name
    path.parent.mkdir()
    content = _newest(whole).read_bytes()
    known = read_container(_newest(whole))
    assert isinstance(known, dict)
    for part in ("network", "model"):
        weight = known[part]["encoder.0.expand.weight"].numpy().tobytes()
        flipped = bytearray(content)
        flipped[content.index(weight) + 100] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(BenchError, match=rf"{path.name}.* Or delete it"):
            _train(images, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard
@pytest.mark.parametrize("room", [0, 1000, 200_000])
def test_a_checkpoint_that_the_disk_cannot_hold_is_a_clear_error(
    images: Path, whole: Path, tmp_path: Path, room: int
) -> None:
    job = _job(images, tmp_path, replace(ROUTINE, steps=1), held_out=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(BenchError, match=r"cannot write"):
            train(job, _quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoints.all_of(tmp_path / CHECKPOINTS) == []


@pytest.mark.fault(19)
def test_a_checkpoint_that_would_run_code_is_refused(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS
    folder.mkdir()
    torch.save({"format": 1, "step": Path("x")}, folder / "step-00000001.pt")
    with pytest.raises(BenchError, match=r"step-00000001\.pt"):
        _train(images, tmp_path)


@pytest.mark.fault(12)
def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(images, tmp_path)

    def poison(stage: str, done: int, total: int) -> None:
        if done == 3:
            with torch.no_grad():
                next(job.network.parameters()).fill_(float("nan"))

    with pytest.raises(RunFailed, match=r"at step 4 the loss is nan .*step-00000002\.pt"):
        train(job, poison)
    assert _newest(tmp_path).name == "step-00000002.pt"
    assert all(each.isfinite().all() for each in read_state(_newest(tmp_path)).values())


def test_more_corrupt_images_than_are_allowed_stop_the_run_and_are_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[str] = set()
    read = Tile.read

    def damaged(self: Tile) -> np.ndarray:
        if self.name in broken:
            raise BenchError(f"{self.name} is damaged")
        return read(self)

    monkeypatch.setattr(Tile, "read", damaged)
    job = _job(images, tmp_path / "one")
    broken.update([job.tiles[3].name, job.held_out[0].name])
    outcome = train(job, _quiet)
    assert outcome.finished
    assert sorted(outcome.refused) == sorted(broken)
    job = _job(images, tmp_path / "all")
    broken.update(tile.name for tile in job.tiles)
    with pytest.raises(BenchError, match=r"of 10 images cannot be used, and 9 are allowed"):
        train(job, _quiet)


@pytest.mark.fault(8)
def test_a_disk_that_is_too_small_is_refused_before_the_start(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match=r"3 checkpoints .* GiB free\. Keep fewer"):
        _job(images, tmp_path)


@pytest.mark.fault(8)
def test_a_disk_that_fills_up_leaves_the_old_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(images, tmp_path, replace(ROUTINE, steps=2))

    def full(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(BenchError, match="No space left"):
        _train(images, tmp_path)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000002.pt"]


def test_holding_out_everything_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--held-out 12 leaves none of 12 images"):
        _job(images, tmp_path, held_out=12)
    assert _train(images, tmp_path, held_out=0).scores is None


def test_an_average_that_keeps_the_random_start_is_said(images: Path, tmp_path: Path) -> None:
    job = _job(images, tmp_path, ema=0.9999)
    assert any(
        "--ema 0.9999 over 6 steps: the averaged weights will be 100%" in note for note in job.notes
    )
    assert not any("--ema" in note for note in _job(images, tmp_path, ema=0.1).notes)
