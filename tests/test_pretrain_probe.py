"""A probe gives the score of `bench run` on the same weights, and does not affect training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_pretraining import content, job_of, quiet, write_tiles
from tiny import squares
from torch import Tensor

from bench import registry
from bench.api import Backbone, board
from bench.api.run_config import RunConfig
from bench.backbones.cmd.network import CMD
from bench.board import scores as board_scores
from bench.errors import BenchError
from bench.features.bank import FeatureBank
from bench.pretrain.probe import Probe
from bench.pretrain.trainer import train
from bench.runs.execute import Paths, execute

REQUEST = RunConfig(backbone="cmd-tiny", epochs=2, folds=0, view="whole", input_px=32, device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A request on dark squares: 4 training images, 5 test patients."""
    folder = squares(tmp_path_factory.mktemp("data") / "squares", count=9)
    return replace(REQUEST, dataset=str(folder))


def _weights(seed: int, cond_dim: int | None = None) -> dict[str, Tensor]:
    """Return random weights of cmd-tiny without zeros, as after training."""
    backbone: Backbone = registry.get("backbones", "cmd-tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert backbone.network is not None
        network = backbone.network(cond_dim=cond_dim)
        return {
            name: weight + 0.05 * torch.randn_like(weight)
            for name, weight in network.state_dict().items()
        }


def _score_of_run(weights: Mapping[str, Tensor], request: RunConfig, home: Path) -> board.Score:
    """Return the score of `bench run --checkpoint` on exported weights."""
    home.mkdir()
    exported = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(exported, home / "model.safetensors")
    paths = Paths(home / "results", cache=home / "cache")
    record = execute(replace(request, checkpoint=home), paths, quiet).record
    return board_scores.score(record, "dice", board.BoardOptions())


# ---- the score -------------------------------------------------------------------------------


def test_a_probe_gives_the_score_and_interval_of_a_run(tmp_path: Path, request_: RunConfig) -> None:
    probe = Probe(request_)
    scores = []
    for seed in (1, 2):
        weights = _weights(seed)
        scores.append(probe(weights, quiet))
        assert scores[-1] == _score_of_run(weights, request_, tmp_path / str(seed))
    assert scores[0].summary.mean != scores[1].summary.mean
    assert scores[0].summary.interval.low is not None
    assert probe(_weights(1), quiet) == scores[0]  # independent of earlier probes


@pytest.mark.parametrize(
    "changed",
    [
        {"option": {"condition": "rgb"}},
        {"option": {"timestep": "200", "blocks": "3,8"}},
        {"precision": "bf16", "view": "tiles", "limit": 5},
    ],
    ids=["condition", "reading", "tiles"],
)
def test_a_probe_with_options_gives_the_score_of_a_run_with_them(
    tmp_path: Path, changed: dict, request_: RunConfig
) -> None:
    request = replace(request_, **changed)
    cond_dim = 3 if "condition" in request.backbone_options else None
    weights = _weights(3, cond_dim)
    assert Probe(request)(weights, quiet) == _score_of_run(weights, request, tmp_path / "run")


def test_a_probe_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: RunConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Probe(request_)(_weights(1), quiet)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_is_that_of_the_feature_maps_of_all_images(
    monkeypatch: pytest.MonkeyPatch, request_: RunConfig
) -> None:
    sizes: list[int] = []
    probe = Probe(replace(request_, limit=2, view="tiles"))
    prepare_bank = FeatureBank.prepare

    def recorded(self: FeatureBank, *arguments: object) -> None:
        prepare_bank(self, *arguments)  # type: ignore[arg-type]
        sizes.append(sum(level.nbytes for maps in self._maps.values() for level in maps))

    monkeypatch.setattr(FeatureBank, "prepare", recorded)
    probe(_weights(1), quiet)
    assert sizes == [probe.memory_bytes()]


# ---- isolation -------------------------------------------------------------------------------


def _state() -> list[object]:
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is checked
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(numbers),
        torch.is_grad_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    ]


def test_a_probe_neither_changes_nor_depends_on_global_state(request_: RunConfig) -> None:
    probe, weights = Probe(request_), _weights(1)
    alone = probe(weights, quiet)
    torch.manual_seed(77)
    before = _state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = _state()
        assert probe(weights, quiet) == alone
        assert _state() == inside
    assert _state() == before


def test_training_with_probes_ends_with_the_same_bytes(tmp_path: Path, request_: RunConfig) -> None:
    probe, scores = Probe(request_), []
    tiles = write_tiles(tmp_path / "tiles", count=4)

    def probe_after_a_step() -> None:
        scores.append(probe(_weights(len(scores)), quiet))

    options: dict[str, Any] = {"steps": 3, "save_every": 3, "held_out": 0, "batch_size": 2}
    train(job_of(tiles, tmp_path / "with", **options), quiet, probe_after_a_step)
    train(job_of(tiles, tmp_path / "without", **options), quiet)
    assert len(scores) == 3
    assert content(tmp_path / "with") == content(tmp_path / "without")


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "sinthetic"}, "synthetic"),
        ({"option": {"condition": "no-such"}}, "no-such"),
        ({"input_px": 42}, "does not fit"),
    ],
)
def test_an_invalid_probe_raises_before_training(changed: dict, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Probe(replace(REQUEST, **changed))


def test_a_data_set_with_a_patient_in_both_splits_raises(tmp_path: Path) -> None:
    manifest = squares(tmp_path / "leaky", count=4) / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("p3", "p0"))
    with pytest.raises(BenchError, match="not independent"):
        Probe(replace(REQUEST, dataset=str(tmp_path / "leaky")))


def test_weights_of_another_network_raise(request_: RunConfig) -> None:
    with pytest.raises(BenchError, match="base width 8"):
        Probe(request_)(CMD(8).state_dict(), quiet)
