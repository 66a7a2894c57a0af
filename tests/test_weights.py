"""Sources of weights, options of backbones, and invalid files of weights, without a network."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from tiny import Colours
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, FeatureExtractor, Weights
from bench.errors import BenchError
from bench.models.checkpoints import read_weights
from bench.models.load import describe, identify_backbone, open_backbone

HUB = Weights(repo="lab/model", file="model.safetensors", revision="abc123")


def _build(
    *,
    gain: float = 1.0,
    depth: int | None = None,
    mask_seed: int = 0,
    blocks: tuple[int, ...] = (1, 2),
    flip: bool = False,
    word: str = "none",
) -> FeatureExtractor:
    extractor = Colours(4)
    extractor.facts = {"gain": gain}
    return extractor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user, and an unreachable hub."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def fail(*_: object, **__: object) -> object:
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    return tmp_path / "cache"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backbone]:
    """Return a function that registers the backbone `toy`."""

    def put(**fields: Any) -> Backbone:
        record = Backbone(**({"name": "toy", "build": _build, "license": "MIT"} | fields))
        monkeypatch.setattr(registry, "get", lambda kind, name: {"toy": record}[name])
        return record

    return put


def _state(value: float = 0.5) -> dict[str, Tensor]:
    return {"conv.weight": torch.full((4, 3, 1, 1), value), "conv.bias": torch.zeros(4)}


def _file(path: Path, state: dict[str, Tensor] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_state() if state is None else state, path)
    return path


# ---- sources ---------------------------------------------------------------------------------


def test_a_checkpoint_is_loaded_and_identified_by_its_hash(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    file = _file(tmp_path / "mine.safetensors")
    opened = open_backbone("toy", checkpoint=file)
    assert opened.identity == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert opened.source == f"file {file}"
    assert not opened.untrained
    assert not opened.extractor.training
    assert (opened.extractor.conv.weight == 0.5).all()  # type: ignore[union-attr, operator]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an importable package, `toys`."""
    folder = tmp_path / "site" / "toys"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_packaged_weights_are_loaded_unless_the_cache_has_others(
    register: Callable[..., Backbone], package: Path, cache: Path
) -> None:
    half = {name: each.bfloat16() for name, each in _state(0.25).items()}
    known = hashlib.sha256(_file(package / "toy.safetensors", half).read_bytes()).hexdigest()
    register(weights=Weights(package="toys", file="toy.safetensors", sha256=known))
    opened = open_backbone("toy")
    assert (opened.source, opened.identity) == ("package toys", f"sha256:{known}")
    assert (opened.untrained, opened.is_users_file) == (False, False)
    weight = opened.extractor.state_dict()["conv.weight"]
    assert torch.equal(weight, torch.full((4, 3, 1, 1), 0.25))  # float32
    file = _file(cache / "weights" / "toy.safetensors")
    assert open_backbone("toy").source == f"cache {file}"
    assert open_backbone("toy", random=True).untrained


def test_a_package_without_its_weights_is_refused(
    register: Callable[..., Backbone], package: Path
) -> None:
    register(weights=Weights(package="toys", file="toy.safetensors", sha256="0" * 64))
    for _ in range(2):  # missing, then another file
        with pytest.raises(BenchError, match=r"missing or damaged: install toys again\. Otherwise"):
            open_backbone("toy")
        (package / "toy.safetensors").write_bytes(b"another")


def test_a_checkpoint_may_be_a_folder_and_part_of_the_name(
    register: Callable[..., Backbone], tmp_path: Path, cache: Path
) -> None:
    register(weights=HUB)
    file = _file(tmp_path / "run" / "model.safetensors")
    assert open_backbone("toy", checkpoint=tmp_path / "run").source == f"file {file}"
    assert open_backbone(f"toy@{file}").source == f"file {file}"
    assert open_backbone(f"toy@{tmp_path / 'run'}").source == f"file {file}"
    cached = _file(cache / "weights" / "toy.safetensors")
    assert open_backbone("toy").source == f"cache {cached}"  # before the hub


def test_missing_and_conflicting_sources_are_refused(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    with pytest.raises(BenchError) as caught:
        open_backbone("cmd-l")
    for remedy in ("--checkpoint FILE", "bench pretrain --backbone cmd-l", "--weights random"):
        assert remedy in str(caught.value)
    register()
    with pytest.raises(BenchError, match="--weights random") as caught:
        open_backbone("toy")
    assert "pretrain" not in str(caught.value)  # it cannot be pretrained
    for name in ("toy@random", "toy@x.safetensors"):
        with pytest.raises(BenchError, match=r"[Gg]ive one"):
            open_backbone(name, checkpoint=Path("y.safetensors"))
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(BenchError, match=r"no file of weights .*\.safetensors"):
            open_backbone("toy", checkpoint=path)


# ---- random weights --------------------------------------------------------------------------


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = open_backbone("cmd-tiny@random", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (open_backbone("cmd-tiny", random=True, seed=seed) for seed in (1, 2))
    assert (first.identity, other.identity) == ("random:1", "random:2")
    assert first.untrained
    name = "network.stem.weight"
    assert torch.equal(first.extractor.state_dict()[name], again.extractor.state_dict()[name])
    assert not torch.equal(first.extractor.state_dict()[name], other.extractor.state_dict()[name])


def test_a_name_has_the_seed_of_its_random_weights() -> None:
    for source, identity in (("random", "random:0"), ("random:0", "random:0")):
        assert open_backbone(f"cmd-tiny@{source}").identity == identity
    named = open_backbone("cmd-tiny@random:1")
    seeded = open_backbone("cmd-tiny", random=True, seed=1)
    assert named.identity == "random:1"
    name = "network.stem.weight"
    assert torch.equal(named.extractor.state_dict()[name], seeded.extractor.state_dict()[name])


@pytest.mark.parametrize("seed", ["x", "", "-1", "1.5", str(2**63)])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    with pytest.raises(BenchError, match=f"{seed!r} is not the seed of random weights"):
        open_backbone(f"cmd-tiny@random:{seed}")


def test_a_trainable_backbone_is_not_an_untrained_control(
    register: Callable[..., Backbone],
) -> None:
    register(build=lambda: Colours(4).requires_grad_(True), weights=Weights(needed=False))
    opened = open_backbone("toy")
    assert (opened.identity, opened.untrained) == ("random:0", False)
    with pytest.raises(BenchError, match="toy has no frozen weights that could be random"):
        open_backbone("toy@random:1")


@pytest.mark.fault(26)
def test_a_backbone_that_changes_the_default_dtype_is_refused_and_modes_are_restored(
    register: Callable[..., Backbone],
) -> None:
    def build() -> FeatureExtractor:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return Colours(4)

    register(build=build)
    with pytest.raises(BenchError, match="toy changed the default dtype"):
        open_backbone("toy@random")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


# ---- options ---------------------------------------------------------------------------------


def test_options_are_converted_by_the_annotations_of_the_builder(
    register: Callable[..., Backbone],
) -> None:
    register()
    text = {"gain": "2.5", "depth": "3", "mask-seed": "7", "blocks": "4,5", "flip": "true"}
    options = open_backbone("toy@random", options=text | {"word": "x"}).options
    assert options == {
        "gain": 2.5, "depth": 3, "mask_seed": 7, "blocks": (4, 5), "flip": True, "word": "x",
    }  # fmt: skip
    options = open_backbone("toy@random", options={"depth": "none", "word": "none"}).options
    assert (options["depth"], options["word"]) == (None, "none")


def test_unknown_options_and_invalid_values_are_refused(register: Callable[..., Backbone]) -> None:
    register()
    for name, value in (
        ("blocks", "1;2"), ("flip", "perhaps"), ("gain", "much"), ("mask_seed", "none"),
    ):  # fmt: skip
        with pytest.raises(BenchError, match=f"{name}='{value}' is not of type"):
            open_backbone("toy@random", options={name: value})
    with pytest.raises(BenchError, match="no option 'timestep'; it takes gain, depth, mask_seed"):
        open_backbone("toy@random", options={"timestep": "50"})
    register(build=lambda: Colours(4))
    with pytest.raises(BenchError, match="takes none"):
        open_backbone("toy@random", options={"gain": "1"})


def test_a_description_reads_no_file(register: Callable[..., Backbone]) -> None:
    register(weights=HUB)
    info = describe("toy", {"gain": "2"})
    assert (info.parameters, info.trainable_parameters) == (16, 0)
    assert (info.channels, info.strides) == ((4,), (1,))
    assert info.facts == {"gain": 2.0}


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.fault(19)
def test_weights_of_another_dtype_kind_are_refused(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    file = tmp_path / "m.pt"
    for dtype in (torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn):
        torch.save(_state() | {"conv.weight": torch.ones(4, 3, 1, 1).to(dtype)}, file)
        with pytest.raises(
            BenchError, match=rf"conv\.weight is {dtype}, but must be torch\.float32"
        ):
            open_backbone("toy", checkpoint=file)

    def build() -> FeatureExtractor:
        toy = Colours(4)
        toy.norm = nn.BatchNorm2d(4)
        return toy

    register(build=build)
    state = dict(build().state_dict())
    open_backbone("toy", checkpoint=_file(tmp_path / "good.safetensors", state))
    state["norm.num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(BenchError, match=r"num_batches_tracked is torch\.float32"):
        open_backbone("toy", checkpoint=_file(tmp_path / "bad.safetensors", state))


def _named(prefix: str, value: float = 0.5) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in _state(value).items()}


HEAD = {"head.weight": torch.zeros(2, 2)}
LAYOUTS: dict[str, tuple[object, str]] = {
    "plain": (_state(), ""),
    "a wrapper": ({"state_dict": _state(), "epoch": 3}, "state_dict"),
    "a wrapper of training": ({"model_state_dict": _state()}, "model_state_dict"),
    "settings and a number of numpy": (
        {"model": _state(), "args": argparse.Namespace(lr=1), "best": np.float64(1)},
        "model",
    ),
    "two prefixes": (_named("module.model."), "module., model."),
    "teacher and student": (
        {"student": _named("backbone.", 9), "teacher": _named("backbone.") | HEAD},
        "teacher, backbone. (1 other tensors left out)",
    ),
    "prefixes of teacher and student": (
        _named("student.backbone.", 9) | _named("teacher.backbone."),
        "teacher. (2 other tensors left out), backbone.",
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pth", ""])  # a blob of the hub has no suffix
def test_a_layout_of_training_code_is_unwrapped_and_named(
    register: Callable[..., Backbone], tmp_path: Path, case: str, suffix: str
) -> None:
    register()
    content, unwrapped = LAYOUTS[case]
    torch.save(content, tmp_path / f"m{suffix}")
    opened = open_backbone("toy", checkpoint=tmp_path / f"m{suffix}")
    assert torch.equal(opened.extractor.state_dict()["conv.weight"], _state()["conv.weight"])
    assert opened.source.partition(" (unwrapped: ")[2].removesuffix(")") == unwrapped


def test_a_folder_with_pytorch_model_bin_or_with_shards_is_a_checkpoint(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    torch.save(_state(), tmp_path / "pytorch_model.bin")
    assert open_backbone("toy", checkpoint=tmp_path).source.endswith("pytorch_model.bin")
    shards, index = tmp_path / "shards", {}
    for number, (name, tensor) in enumerate(_state().items()):
        index[name] = _file(shards / f"{number}.safetensors", {name: tensor}).name
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    opened = open_backbone("toy", checkpoint=shards)
    assert opened.identity == identify_backbone("toy", checkpoint=shards).identity
    _file(shards / "1.safetensors", {"conv.bias": torch.ones(4)})
    assert open_backbone("toy", checkpoint=shards).identity != opened.identity
    (shards / "1.safetensors").unlink()
    with pytest.raises(BenchError, match=r"index\.json lists 1\.safetensors, which is missing"):
        open_backbone("toy", checkpoint=shards)


@pytest.mark.fault(34)
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_weights_that_are_replaced_while_they_are_read_have_the_hash_of_what_was_read(
    register: Callable[..., Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    register()
    file, other = tmp_path / name, tmp_path / f"other-{name}"
    for path, value in ((file, 0.5), (other, 0.25)):
        torch.save(_state(value), path) if name == "m.pt" else _file(path, _state(value))
    first = hashlib.sha256(file.read_bytes()).hexdigest()
    for module, attribute in ((safetensors.torch, "load"), (torch, "load")):
        read = getattr(module, attribute)

        def replaced(*args: Any, read: Callable[..., Any] = read, **options: Any) -> Any:
            file.write_bytes(other.read_bytes())
            return read(*args, **options)

        monkeypatch.setattr(module, attribute, replaced)
    opened = open_backbone("toy", checkpoint=file)
    assert file.read_bytes() == other.read_bytes()
    assert opened.identity == f"sha256:{first}"
    assert (opened.extractor.state_dict()["conv.weight"] == 0.5).all()


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize(
    ("suffix", "bare"), [(".pt", True), (".pt", False), (".safetensors", True)]
)
@pytest.mark.fault(19)
def test_a_payload_in_a_file_of_weights_never_runs(tmp_path: Path, suffix: str, bare: bool) -> None:
    file, marker = tmp_path / f"evil{suffix}", tmp_path / "ran"
    if bare:
        file.write_bytes(pickle.dumps(_Payload(marker)))
    else:
        torch.save({"conv.weight": _Payload(marker)}, file)
    with pytest.raises(BenchError) as caught:
        read_weights(file)
    assert not marker.exists()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in str(caught.value)
    pickle.loads(pickle.dumps(_Payload(marker)))  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
@pytest.mark.fault(19)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole-{name}"
    torch.save(_state(), whole) if name.endswith("pt") else save_file(_state(), whole)
    file = tmp_path / name
    for end in (0, 3, 8, 40, -1):
        file.write_bytes(whole.read_bytes()[:end])
        with pytest.raises(BenchError, match=rf"{name} \(sha256 [0-9a-f]{{64}}\) were not read"):
            read_weights(file)


@pytest.mark.fault(19)
def test_a_flipped_bit_never_gives_other_weights(tmp_path: Path) -> None:
    file = tmp_path / "m.pt"
    torch.save(_state(), file)
    whole = file.read_bytes()
    headers = [entry.start() + 10 for entry in re.finditer(rb"PK\x01\x02", whole)]
    refused = 0
    for place in [*headers, *range(0, len(whole), 13)]:  # 10: how an entry is compressed
        content = bytearray(whole)
        content[place] ^= 8
        file.write_bytes(content)
        try:
            state = read_weights(file).tensors
        except BenchError as error:
            refused += "sha256" in str(error)
        else:  # where zip files have names and times, that nobody reads
            assert state.keys() == _state().keys()
            assert all(torch.equal(each, _state()[name]) for name, each in state.items())
    assert refused > len(headers)


@pytest.mark.fault(19)
def test_files_that_are_not_state_dicts_are_refused(tmp_path: Path) -> None:
    loop: dict[str, object] = {"epoch": torch.ones(1)}
    loop["model"] = loop
    for content, problem in (
        ([torch.zeros(3)], "something other than named tensors"),
        ({"epoch": 3, "conv.weight": torch.zeros(3)}, "something other than named tensors"),
        ({1: torch.ones(1)}, "other than named tensors"),
        (loop, "more than 3 wrappers"),
    ):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(BenchError, match=problem):
            read_weights(tmp_path / "m.pt")
    for content, problem in (
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"weights", "neither a safetensors file nor of torch.save"),
        (None, r"the class pathlib\.PosixPath, whose code would run"),
    ):
        torch.save({"model": Path("x")}, tmp_path / "m.pt")
        if content is not None:
            (tmp_path / "m.pt").write_bytes(content)
        with pytest.raises(BenchError, match=problem):
            read_weights(tmp_path / "m.pt")


@pytest.mark.fault(19)
def test_weights_of_another_network_are_refused_with_the_names_of_key_and_file(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    for change, problem in (
        ({"conv.weight": torch.zeros(4, 3, 3, 3)}, "size mismatch for conv.weight"),
        ({"teacher.head": torch.zeros(2)}, "teacher.head"),
        ({"conv.bias": None}, "conv.bias"),
        ({"conv.bias": torch.full((4,), torch.nan)}, "conv.bias contains NaN"),
        ({f"blocks.{i}.attention.weight": torch.zeros(1) for i in range(1000)}, "blocks.0"),
    ):
        state = {name: v for name, v in (_state() | change).items() if v is not None}
        file = _file(tmp_path / "other.safetensors", state)
        with pytest.raises(BenchError) as caught:
            open_backbone("toy", checkpoint=file)
        for part in (problem, str(file)):
            assert part in str(caught.value)
        assert len(str(caught.value)) < 800
    register(convert=lambda state, extractor: {"conv.weight": state["patch_embed.weight"]})
    with pytest.raises(BenchError, match=r"weights of toy: KeyError.*patch_embed"):
        open_backbone("toy", checkpoint=_file(tmp_path / "m.safetensors"))


def test_a_converter_renames_the_weights_of_a_file(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    def convert(state: Any, extractor: nn.Module) -> dict[str, Tensor]:
        assert isinstance(extractor, Colours)
        return {name.removeprefix("teacher."): each for name, each in state.items()}

    register(convert=convert)
    state = {f"teacher.{name}": each for name, each in _state(0.25).items()}
    opened = open_backbone("toy", checkpoint=_file(tmp_path / "m.safetensors", state))
    assert (opened.extractor.conv.weight == 0.25).all()  # type: ignore[union-attr, operator]
