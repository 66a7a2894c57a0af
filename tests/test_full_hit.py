"""Where all features that a run needs are kept, its backbone is not loaded, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import FEWSHOT, SIDE, request, run, squares
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, Weights
from bench.api.config import RunConfig
from bench.api.nn import FeatureExtractor
from bench.api.record import to_bytes
from bench.errors import BenchError, RunFailed
from bench.features.bank import FeatureBank
from bench.models import load as models_load
from bench.runs import code_hash
from bench.runs.execute import Paths, execute
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.runs.trials import TrialRunner
from bench.store.results import Store

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
        counts, load = Counts(), models_load._load

        def build() -> FeatureExtractor:
            counts.built += not torch.empty(0).is_meta
            return kind()

        def counting(*given: object) -> None:
            counts.loaded += 1
            load(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(models_load, "_load", counting)
        found = registry.Found(Backbone(NAME, build, weights=Weights(needed=True)), "this test")
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
    assert (made.found, found.found) == (False, True)
    assert counts.loaded == 1
    assert execute(asked, places, lambda *_: None, force=True).record.spec.repeat == 1
    assert counts.loaded == 2


def test_where_heads_are_kept_the_features_of_scored_images_are_enough(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    trained_on = [s for s in resolve(asked, None, load=False).samples.values() if s.split != "test"]
    for each in _features(tmp_path):
        if each.stem in {sample.fingerprint for sample in trained_on}:
            each.unlink()
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 1
    _forget_heads(tmp_path)
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 2


@pytest.mark.parametrize("harm", ["missing", "damaged", "no manifest", "another manifest"])
def test_where_anything_is_missing_or_damaged_the_backbone_is_loaded_and_it_is_made_again(
    plug: Plug, asked: RunConfig, tmp_path: Path, harm: str
) -> None:
    counts = plug()
    first = _elsewhere(asked, tmp_path)
    _forget_heads(tmp_path)
    victim, *_ = sorted(_features(tmp_path))
    about = victim.parent / "about.json"
    if harm == "missing":
        victim.unlink()
    elif harm == "damaged":
        victim.write_bytes(victim.read_bytes()[:50])
    elif harm == "no manifest":
        about.unlink()
    else:
        about.write_text(about.read_text().replace('"parameters":', '"parameters":1'))
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 2
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded == 2


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


@pytest.mark.parametrize("kind", [Growing, Training])
def test_a_backbone_of_which_a_manifest_says_otherwise_or_that_trains_is_always_loaded(
    plug: Plug, asked: RunConfig, tmp_path: Path, kind: type[FeatureExtractor]
) -> None:
    counts = plug(kind)
    first = _elsewhere(asked, tmp_path)
    before = counts.loaded
    assert _elsewhere(asked, tmp_path) == first
    assert counts.loaded > before


def test_features_that_go_away_under_way_end_the_run_with_the_cure(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    plug()
    _elsewhere(asked, tmp_path)
    job = resolve(asked, None, load=False)
    bank = FeatureBank(job.runner, list(job.samples.values()), next(_features(tmp_path)).parent)
    for each in _features(tmp_path):
        each.unlink()
    with pytest.raises(RunFailed, match="same command again"):
        bank.maps([("i_00", 0)])


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
    outline, loaded = (resolve(asked, None, Session(None), load=load) for load in (False, True))
    assert outline.spec == loaded.spec
    assert outline.flags == loaded.flags
    alike = ("identity", "source", "untrained", "options", "given")
    assert [getattr(outline.opened, n) for n in alike] == [getattr(loaded.opened, n) for n in alike]
    own, other = (each.runner.extractor for each in (outline, loaded))
    assert (own.channels, own.strides, own.facts) == (other.channels, other.strides, other.facts)
    code = [code_hash.sha256([outline.opened.backbone.build], [each]) for each in (own, other)]
    assert code[0] == code[1]
    assert all(each.is_meta for each in own.parameters())


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


def test_a_plain_run_is_known_to_be_complete_only_with_a_cache(
    plug: Plug, asked: RunConfig, tmp_path: Path
) -> None:
    plug()
    run(asked, tmp_path)
    job = resolve(asked, None, load=False)
    kept, without = (
        TrialRunner(job, Store(tmp_path / "other"), "x", cache).is_kept()
        for cache in (tmp_path / "cache", None)
    )
    assert kept
    assert not without
