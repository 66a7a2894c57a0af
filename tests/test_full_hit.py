"""Weights are loaded when the first feature map is missing, and records do not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import FEWSHOT, SIDE, request, run, squares
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, Weights
from bench.api.nn import FeatureExtractor
from bench.api.record import to_bytes
from bench.api.run_config import RunConfig
from bench.errors import BenchError, RunFailed
from bench.features.bank import FeatureBank
from bench.models import load as models_load
from bench.models.checkpoints import StateFile
from bench.runs import code_hash
from bench.runs.execute import Paths, execute
from bench.runs.resolve import resolve
from bench.runs.session import Session, load_backbone

NAME = "counted"


class Counted(FeatureExtractor):
    """One convolution and a norm whose buffers no weight file may lack."""

    channels, strides = (4,), (2,)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(images))]  # (N, 4, H/2, W/2)


class Growing(Counted):
    """Its number of weights depends on the file, as that of a ViT with a grid of its own does."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load(state)
        self.grid = nn.Parameter(torch.zeros(7), requires_grad=False)


class Training(Counted):
    """It trains with its head."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(True)


@dataclass
class Counts:
    """How often a backbone was built for use, and had a file of weights read into it."""

    built: int = 0
    loaded: int = 0


Plug = Callable[..., Counts]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Register a backbone whose buildings and loadings are counted."""

    def plugged(kind: type[FeatureExtractor] = Counted) -> Counts:
        counts, load = Counts(), models_load._load_weights

        def build() -> FeatureExtractor:
            counts.built += not torch.empty(0).is_meta
            return kind()

        def counting(*arguments: Any) -> StateFile:
            counts.loaded += 1
            return load(*arguments)

        monkeypatch.setattr(models_load, "_load_weights", counting)
        found = registry.LoadedPlugin(
            Backbone(NAME, build, weights=Weights(needed=True)), "this test"
        )
        monkeypatch.setitem(registry.catalogue("backbones").found, NAME, [found])
        return counts

    return plugged


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return _file(tmp_path / "weights.safetensors", seed=0)


def _file(path: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(Counted().state_dict(), path)
    return path


@pytest.fixture
def asked(tmp_path: Path, file: Path) -> RunConfig:
    folder = squares(tmp_path / "squares", count=8)
    return request(folder, backbone=NAME, checkpoint=file, head="decoder")


def _elsewhere(asked: RunConfig, home: Path) -> bytes:
    """Run into a store of its own, with the cache of all."""
    places = Paths(home / f"results-{len(list(home.iterdir()))}", cache=home / "cache")
    return to_bytes(execute(asked, places, lambda *_: None).record)


def _features(home: Path) -> Iterator[Path]:
    return (home / "cache" / "features").glob("*/*.safetensors")


def _forget_heads(home: Path) -> None:
    for each in (home / "cache" / "heads").iterdir():
        each.unlink()


def test_on_kept_features_nothing_is_built_or_read_and_the_record_is_the_same_to_the_byte(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    assert counts == Counts(built=1, loaded=1)
    _forget_heads(tmp_path)
    assert _elsewhere(asked, tmp_path) == first
    assert counts == Counts(built=1, loaded=1)


def test_random_weights_are_not_drawn_again_for_kept_features(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    asked = replace(asked, checkpoint=None, weights="random")
    assert _elsewhere(asked, tmp_path) == _elsewhere(asked, tmp_path)
    assert counts == Counts(built=1, loaded=0)


def test_a_committed_run_is_found_without_its_weights_and_without_a_cache(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    places = Paths(tmp_path / "results")
    made, found = (execute(asked, places, lambda *_: None) for _ in range(2))
    assert (made.cached, found.cached) == (False, True)
    assert counts.loaded == 1
    assert execute(asked, places, lambda *_: None, force=True).record.spec.repeat == 1
    assert counts.loaded == 2


def test_where_heads_are_kept_the_features_of_scored_images_are_enough(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    trained_on = [s for s in resolve(asked).samples.values() if s.split != "test"]
    for each in _features(tmp_path):
        if each.stem in {sample.fingerprint for sample in trained_on}:
            each.unlink()
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 1
    _forget_heads(tmp_path)
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 2


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_missing_or_damaged_features_are_recomputed(
    plug: Plug, asked: RunConfig, tmp_path: Path, harm: str
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    _forget_heads(tmp_path)
    victim, *_ = sorted(_features(tmp_path))
    if harm == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:50])
    for _ in range(2):
        assert _elsewhere(asked, tmp_path) == first
        assert counts.loaded == 2


def test_a_missing_description_of_the_features_is_written_again(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    about = next(_features(tmp_path)).parent / "about.json"
    content = about.read_bytes()
    about.unlink()
    assert _elsewhere(asked, tmp_path) == first
    assert about.read_bytes() == content
    assert counts.loaded == 1


def test_another_file_of_weights_is_another_run_and_is_loaded(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    assert asked.checkpoint is not None
    _file(asked.checkpoint, seed=1)
    assert _elsewhere(asked, tmp_path) != first
    assert counts.loaded == 2


def test_weights_that_are_gone_are_refused_though_all_features_are_kept(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    plug()
    _elsewhere(asked, tmp_path)
    assert asked.checkpoint is not None
    asked.checkpoint.unlink()
    with pytest.raises(BenchError, match="no file of weights"):
        _elsewhere(asked, tmp_path)


def test_a_file_that_adds_weights_gives_the_same_record_from_cached_features(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug(Growing)
    assert _elsewhere(asked, tmp_path) == _elsewhere(asked, tmp_path)
    assert counts.loaded == 1


def test_a_backbone_that_trains_is_loaded_for_every_run(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug(Training)
    first = _elsewhere(asked, tmp_path)
    before = counts.loaded
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded > before


def test_features_that_disappear_during_a_run_are_recomputed(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    _elsewhere(asked, tmp_path)
    run = resolve(asked)
    bank = FeatureBank(run.runner, list(run.samples.values()), next(_features(tmp_path)).parent)
    cached = bank.maps([("i_00", 0)])[0]
    for path in _features(tmp_path):
        path.unlink()
    again = FeatureBank(run.runner, list(run.samples.values()), bank.cache)
    with torch.inference_mode():
        assert torch.equal(again.maps([("i_00", 0)])[0], cached)
    assert counts.loaded == 2
    assert not any(weight.is_inference() for weight in run.runner.extractor.parameters())


class Unfrozen(Counted):
    """Frozen when built, but its loader leaves training mode and gradients on."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load(state)
        self.grid = nn.Parameter(torch.zeros(7))
        self.train()


def test_a_frozen_extractor_is_in_eval_mode_and_without_gradients(
    plug: Plug, asked: RunConfig
) -> None:
    plug(Unfrozen)
    runner = resolve(asked).runner
    runner.load()
    assert not any(module.training for module in runner.extractor.modules())
    assert not any(weight.requires_grad for weight in runner.extractor.parameters())


def test_weights_that_change_during_a_command_are_refused(plug: Plug, asked: RunConfig) -> None:
    plug()
    run = resolve(asked)
    assert asked.checkpoint is not None
    _file(asked.checkpoint, seed=1)
    with pytest.raises(BenchError, match="have changed during this command"):
        run.runner.load()


def test_memory_that_ends_while_a_backbone_is_opened_is_reported(
    plug: Plug, asked: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug()

    def exceed(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models_load, "_load_weights", exceed)
    with pytest.raises(RunFailed, match=r"out of memory \(oom\) at opening counted"):
        run(asked, tmp_path)


def test_a_leak_is_refused_before_any_weights_are_read(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    manifest = Path(asked.dataset) / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",p7,", ",p1,"))
    with pytest.raises(BenchError, match="the patient 'p1' is in test and train"):
        run(asked, tmp_path)
    assert counts == Counts()


def test_draws_on_an_outline_score_as_those_on_the_loaded_backbone(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    fewshot = replace(asked, head=None, **FEWSHOT)
    _elsewhere(replace(asked, head="linear"), tmp_path)
    _elsewhere(fewshot, tmp_path)
    assert counts.loaded == 1  # the images are those of the run before
    alone = execute(fewshot, Paths(tmp_path / "alone"), lambda *_: None).record
    assert to_bytes(alone) == _elsewhere(fewshot, tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rgb", {}),
        ("random-vit-s", {}),
        ("all-background", {}),
        ("cmd-tiny", {}),
        ("cmd-tiny", {"blocks": "9", "mask-seed": "1"}),
        ("cmd-tiny@random", {"condition": "cmd-tiny"}),
        ("cmd-tiny@random", {"condition": "random-vit-s", "arch": "dit"}),
        ("timm:resnet10t@random", {}),
        ("timm:vit_tiny_patch16_224@random", {"layers": "3,11"}),
    ],
)
def test_an_outline_says_all_that_names_a_run_as_the_loaded_backbone_does(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    folder = squares(tmp_path / "squares", count=4)
    side = 224 if name.startswith("timm:vit") else SIDE
    asked = request(folder, backbone=name, option=options, input_px=side)
    session = Session()
    run = resolve(asked, session)
    opened = load_backbone(asked, session.dataset(asked.dataset).dataset)
    for name in ("identity", "source", "untrained", "options", "is_users_file"):
        assert getattr(run.opened, name) == getattr(opened, name)
    outline, loaded = run.opened.extractor, opened.extractor
    for name in ("channels", "strides", "facts"):
        assert getattr(outline, name) == getattr(loaded, name)
    build = run.opened.backbone.build
    assert code_hash.sha256([build], [outline]) == code_hash.sha256([build], [loaded])
    assert all(weight.is_meta for weight in outline.parameters())
    run.runner.load()
    assert not any(weight.is_meta for weight in run.runner.extractor.parameters())


def test_the_images_of_a_shifted_run_count_too(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    _elsewhere(asked, tmp_path)
    moved = replace(asked, shift="stain-2")
    first = _elsewhere(moved, tmp_path)
    assert counts.loaded == 2
    assert _elsewhere(moved, tmp_path) == first
    assert counts.loaded == 2
