"""A probe says what `bench run` would say of the same weights, and training does not notice it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bench import registry
from bench.api import Backbone, Labelled, board
from bench.api.config import RunConfig
from bench.backbones.cmd.network import CMD
from bench.board import scores as board_scores
from bench.data.folder import write
from bench.errors import BenchError
from bench.features.bank import FeatureBank
from bench.models import checkpoints
from bench.models.checkpoints import read_container
from bench.pretrain.config import Routine, Settings
from bench.pretrain.job import CHECKPOINTS, prepare
from bench.pretrain.probe import Probe
from bench.pretrain.trainer import train
from bench.runs.execute import Paths, execute

REQUEST = RunConfig(backbone="cmd-tiny", epochs=2, input_px=32, device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Ask for a probe on dark squares: 3 images to train on, 6 patients to score."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    samples = []
    for number in range(9):
        instances = np.zeros((32, 40), np.uint16)
        instances[2 * number : 2 * number + 12, 4:20] = 1
        image = rng.integers(150, 200, (32, 40, 3)).astype(np.uint8)
        image[instances > 0] -= 90
        split = "train" if number < 3 else "test"
        samples.append(Labelled(f"i{number}", image, instances, split, f"p{number}"))
    write(samples, folder, about="squares")
    return replace(REQUEST, dataset=str(folder))


def _quiet(*_: object) -> None: ...


def _weights(seed: int, cond_dim: int | None = None) -> dict[str, Tensor]:
    """Give weights of cmd-tiny in which every gate is open, as after a training."""
    backbone: Backbone = registry.get("backbones", "cmd-tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert backbone.network is not None
        network = backbone.network(cond_dim=cond_dim)
        return {
            name: each + 0.05 * torch.randn_like(each)
            for name, each in network.state_dict().items()
        }


def _ran(weights: Mapping[str, Tensor], request: RunConfig, home: Path) -> board.Score:
    """Give what `bench run --checkpoint` reports of exported weights."""
    home.mkdir()
    exported = {name: each.contiguous() for name, each in weights.items()}
    save_file(exported, home / "model.safetensors")
    places = Paths(home / "results", cache=home / "cache")
    record = execute(replace(request, checkpoint=home), places, _quiet).record
    return board_scores.score(record, "dice", board.BoardOptions())


# ---- the number ------------------------------------------------------------------------------


def test_a_probe_gives_the_number_and_interval_of_a_run(
    tmp_path: Path, request_: RunConfig
) -> None:
    probe = Probe(request_)
    scores = []
    for seed in (1, 2):
        weights = _weights(seed)
        scores.append(probe(weights, _quiet))
        assert scores[-1] == _ran(weights, request_, tmp_path / str(seed))
    assert scores[0].summary.mean != scores[1].summary.mean
    assert scores[0].summary.interval.low is not None
    assert probe(_weights(1), _quiet) == scores[0]  # whatever was probed in between


def test_a_probe_of_the_built_in_set_gives_the_number_of_a_run(tmp_path: Path) -> None:
    request = replace(REQUEST, dataset="synthetic", limit=2)
    weights = _weights(4)
    assert Probe(request)(weights, _quiet) == _ran(weights, request, tmp_path / "run")


@pytest.mark.parametrize(
    "changed",
    [
        {"option": {"condition": "rgb"}},
        {"option": {"timestep": "200", "blocks": "3,8"}},
        {"precision": "bf16", "view": "tiles", "limit": 5},
    ],
    ids=["condition", "reading", "tiles"],
)
def test_a_probe_reads_the_weights_as_a_run_with_these_options_does(
    tmp_path: Path, changed: dict, request_: RunConfig
) -> None:
    request = replace(request_, **changed)
    cond_dim = 3 if "condition" in request.backbone_options else None
    weights = _weights(3, cond_dim)
    assert Probe(request)(weights, _quiet) == _ran(weights, request, tmp_path / "run")


def test_a_probe_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: RunConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Probe(request_)(_weights(1), _quiet)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_is_that_of_the_maps_of_all_images(
    monkeypatch: pytest.MonkeyPatch, request_: RunConfig
) -> None:
    kept: list[int] = []
    probe = Probe(replace(request_, limit=2, view="tiles"))
    prepare_bank = FeatureBank.prepare

    def noting(self: FeatureBank, *arguments: object) -> None:
        prepare_bank(self, *arguments)  # type: ignore[arg-type]
        kept.append(sum(level.nbytes for maps in self._maps.values() for level in maps))

    monkeypatch.setattr(FeatureBank, "prepare", noting)
    probe(_weights(1), _quiet)
    assert kept == [probe.memory_bytes()]


# ---- training goes on undisturbed ------------------------------------------------------------


def _state() -> list[object]:
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002 - the ambient one is looked at
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(numbers),
        torch.is_grad_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    ]


def test_what_surrounds_a_probe_stays_as_it_was_and_changes_nothing(request_: RunConfig) -> None:
    probe, weights = Probe(request_), _weights(1)
    alone = probe(weights, _quiet)
    torch.manual_seed(77)
    before = _state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = _state()
        assert probe(weights, _quiet) == alone
        assert _state() == inside
    assert _state() == before


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (5, 5, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def _narrow(*, cond_dim: int | None, **_: object) -> CMD:
    return CMD(8, cond_dim)


def test_training_with_probes_ends_with_the_same_bits(
    tiles: Path, tmp_path: Path, request_: RunConfig
) -> None:
    settings = Settings("narrow", batch_size=2, lr=1e-3, ema=0.5, precision="fp32", crop_px=32)
    narrow = Backbone("narrow", build=_no_extractor, network=_narrow)  # type: ignore[arg-type]
    probe, scores = Probe(request_), []
    ends = []
    for name, probing in (("with", True), ("without", False)):
        job = prepare(
            narrow, replace(settings, held_out=0), Routine(steps=3), tiles, tmp_path / name
        )

        def after_a_step(probing: bool = probing) -> None:
            if probing:
                scores.append(probe(_weights(len(scores)), _quiet))

        train(job, _quiet, after_a_step)
        (newest,) = checkpoints.all_of(tmp_path / name / CHECKPOINTS)
        ends.append(list(_leaves(read_container(newest))))
    assert len(scores) == 3
    assert len(ends[0]) > 100
    assert ends[0] == ends[1]


def _no_extractor() -> None:
    raise AssertionError("pretraining builds no extractor")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    else:
        yield value.numpy().tobytes() if isinstance(value, Tensor) else value


# ---- what is refused before training ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dataset": "sinthetic"}, "synthetic"),
        ({"dataset": "/nowhere/at/all"}, "no folder"),
        ({"dataset": "tnbc"}, "was not found in"),
        ({"backbone": "cmd-huge"}, "cmd-huge"),
        ({"option": {"condition": "no-such"}}, "no-such"),
        ({"option": {"width": "3"}}, "no option 'width'"),
        ({"input_px": 42}, "does not fit"),
    ],
)
def test_what_cannot_be_probed_is_refused_at_once(
    changed: dict, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    with pytest.raises(BenchError, match=told):
        Probe(replace(REQUEST, **changed))


def test_a_data_set_with_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [
        Labelled(
            f"i{n}",
            rng.integers(0, 255, (32, 32, 3)).astype(np.uint8),
            np.eye(32, dtype=np.uint16),
            split,
            "p",
        )
        for n, split in enumerate(("train", "test"))
    ]
    write(samples, tmp_path / "leaky", about="one patient in two parts")
    with pytest.raises(BenchError, match="not independent"):
        Probe(replace(REQUEST, dataset=str(tmp_path / "leaky")))


def test_weights_of_another_network_are_refused(request_: RunConfig) -> None:
    wide = CMD(8).state_dict()
    with pytest.raises(BenchError, match="base width 8"):
        Probe(request_)(wide, _quiet)
