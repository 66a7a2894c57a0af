"""Where weights come from, what is refused, and what each refusal says, all without a network."""

from __future__ import annotations

import errno
import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, FeatureExtractor, Weights
from bench.errors import BenchError
from bench.models.checkpoints import read_state
from bench.models.load import describe, open_backbone

CANARY = "hf_secretSECRETsecret"
HUB = Weights(repo="lab/model", file="model.safetensors", revision="abc123")


class Toy(FeatureExtractor):
    """A frozen 1 x 1 convolution."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    channels = (4,)
    strides = (1,)

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.facts = {"gain": gain}
        self.conv = nn.Conv2d(3, 4, 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


def _build(
    *,
    gain: float = 1.0,
    depth: int | None = None,
    mask_seed: int = 0,
    blocks: tuple[int, ...] = (1, 2),
    flip: bool = False,
    word: str = "none",
) -> FeatureExtractor:
    return Toy(gain)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user, and a hub that cannot be reached."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    _hub_raises(monkeypatch, TimeoutError())
    return tmp_path / "cache"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backbone]:
    """Give a function that makes `toy` a registered backbone."""

    def put(**fields: Any) -> Backbone:
        record = Backbone(**({"name": "toy", "build": _build, "license": "MIT"} | fields))
        monkeypatch.setattr(registry, "get", lambda kind, name: {"toy": record}[name])
        return record

    return put


def _hub_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)


def _hub_gives(monkeypatch: pytest.MonkeyPatch, download: Callable[..., str]) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def _state(value: float = 0.5) -> dict[str, Tensor]:
    return {"conv.weight": torch.full((4, 3, 1, 1), value), "conv.bias": torch.zeros(4)}


def _file(path: Path, state: dict[str, Tensor] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_state() if state is None else state, path)
    return path


def _answer(status: int) -> Any:
    request = SimpleNamespace(url="https://hub", method="GET", headers={"authorization": CANARY})
    return SimpleNamespace(status_code=status, headers={}, request=request, text=CANARY)


# ---- sources ---------------------------------------------------------------------------------


def test_a_checkpoint_file_is_loaded_and_named_by_its_hash(
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


def test_weights_that_come_with_a_package_are_loaded_unless_the_user_has_others(
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


@pytest.mark.parametrize("content", [None, b"another"])
def test_a_package_without_its_weights_is_refused(
    register: Callable[..., Backbone], package: Path, cache: Path, content: bytes | None
) -> None:
    if content is not None:
        (package / "toy.safetensors").write_bytes(content)
    register(weights=Weights(package="toys", file="toy.safetensors", sha256="0" * 64))
    with pytest.raises(BenchError, match=r"missing or damaged: install toys again\. Otherwise"):
        open_backbone("toy")


def test_a_folder_stands_for_its_model_safetensors_and_a_name_can_carry_either(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    file = _file(tmp_path / "run" / "model.safetensors")
    assert open_backbone("toy", checkpoint=tmp_path / "run").source == f"file {file}"
    assert open_backbone(f"toy@{file}").source == f"file {file}"
    assert open_backbone(f"toy@{tmp_path / 'run'}").source == f"file {file}"


def test_the_users_cache_comes_before_the_hub(
    register: Callable[..., Backbone], cache: Path
) -> None:
    register(weights=HUB)
    file = _file(cache / "weights" / "toy.safetensors")
    assert open_backbone("toy").source == f"cache {file}"


def test_missing_weights_name_the_three_cures() -> None:
    with pytest.raises(BenchError) as caught:
        open_backbone("cmd-l")
    for cure in ("--checkpoint FILE", "bench pretrain --backbone cmd-l", "--weights random"):
        assert cure in str(caught.value)


def test_only_what_can_be_pretrained_here_is_said_to_be(register: Callable[..., Backbone]) -> None:
    register()
    with pytest.raises(BenchError, match="--weights random") as caught:
        open_backbone("toy")
    assert "pretrain" not in str(caught.value)


@pytest.mark.parametrize("name", ["toy@random", "toy@x.safetensors"])
def test_two_sources_are_refused(register: Callable[..., Backbone], name: str) -> None:
    register()
    with pytest.raises(BenchError, match=r"[Gg]ive one"):
        open_backbone(name, checkpoint=Path("y.safetensors"))


def test_a_checkpoint_that_is_not_there_is_named(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    with pytest.raises(BenchError, match=r"no file of weights .*gone\.safetensors"):
        open_backbone("toy", checkpoint=tmp_path / "gone.safetensors")
    with pytest.raises(BenchError, match=r"no file of weights .*model\.safetensors"):
        open_backbone("toy", checkpoint=tmp_path)


# ---- random weights --------------------------------------------------------------------------


def test_random_weights_depend_on_the_seed_alone_and_leave_the_ambient_state_be() -> None:
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


def test_what_trains_from_scratch_is_no_untrained_control(
    register: Callable[..., Backbone],
) -> None:
    register(build=lambda: Toy().requires_grad_(True), weights=Weights(needed=False))
    opened = open_backbone("toy")
    assert (opened.identity, opened.untrained) == ("random:0", False)


@pytest.mark.fault(26)
def test_a_backbone_that_changes_the_default_dtype_is_refused_and_modes_are_restored(
    register: Callable[..., Backbone],
) -> None:
    def build() -> Toy:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return Toy()

    register(build=build)
    with pytest.raises(BenchError, match="toy changed the default dtype"):
        open_backbone("toy@random")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


# ---- options ---------------------------------------------------------------------------------


def test_options_are_converted_by_the_builders_annotations(
    register: Callable[..., Backbone],
) -> None:
    register()
    text = {"gain": "2.5", "depth": "3", "mask-seed": "7", "blocks": "4,5", "flip": "true"}
    options = open_backbone("toy@random", options=text | {"word": "x"}).options
    assert options == {
        "gain": 2.5, "depth": 3, "mask_seed": 7, "blocks": (4, 5), "flip": True, "word": "x",
    }  # fmt: skip


def test_none_is_a_value_only_where_the_annotation_has_it(
    register: Callable[..., Backbone],
) -> None:
    register()
    options = open_backbone("toy@random", options={"depth": "none", "word": "none"}).options
    assert (options["depth"], options["word"]) == (None, "none")
    with pytest.raises(BenchError, match="mask_seed='none' is not of type int"):
        open_backbone("toy@random", options={"mask_seed": "none"})


def test_an_unknown_option_gets_the_known_ones(register: Callable[..., Backbone]) -> None:
    register()
    with pytest.raises(BenchError, match="no option 'timestep'; it takes gain, depth, mask_seed"):
        open_backbone("toy@random", options={"timestep": "50"})
    register(build=lambda: Toy())
    with pytest.raises(BenchError, match="takes none"):
        open_backbone("toy@random", options={"gain": "1"})


@pytest.mark.parametrize("wrong", [{"blocks": "1;2"}, {"flip": "perhaps"}, {"gain": "much"}])
def test_a_value_of_another_type_is_named(
    register: Callable[..., Backbone], wrong: dict[str, str]
) -> None:
    register()
    (name,) = wrong
    with pytest.raises(BenchError, match=f"{name}='{wrong[name]}' is not of type"):
        open_backbone("toy@random", options=wrong)


def test_a_description_reads_nothing(register: Callable[..., Backbone]) -> None:
    register(weights=HUB)
    told = describe("toy", {"gain": "2"})
    assert (told.parameters, told.trainable_parameters) == (16, 0)
    assert (told.channels, told.strides) == ((4,), (1,))
    assert told.facts == {"gain": 2.0}


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_precision_files_are_loaded_into_float32(
    register: Callable[..., Backbone], tmp_path: Path, dtype: torch.dtype
) -> None:
    register()
    file = _file(tmp_path / "m.safetensors", {name: v.to(dtype) for name, v in _state().items()})
    opened = open_backbone("toy", checkpoint=file)
    assert {each.dtype for each in opened.extractor.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.fault(19)
def test_numbers_of_another_kind_than_the_weights_are_refused(
    register: Callable[..., Backbone], tmp_path: Path, dtype: torch.dtype
) -> None:
    register()
    state = _state() | {"conv.weight": torch.ones(4, 3, 1, 1).to(dtype)}
    file = tmp_path / "m.pt"  # an older safetensors knows no complex numbers
    torch.save(state, file)
    with pytest.raises(BenchError, match=rf"conv\.weight holds {dtype}, and torch\.float32"):
        open_backbone("toy", checkpoint=file)


@pytest.mark.fault(19)
def test_real_numbers_are_refused_where_whole_ones_are_counted(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    def build() -> Toy:
        toy = Toy()
        toy.norm = nn.BatchNorm2d(4)
        return toy

    register(build=build)
    state = {name: each.clone() for name, each in build().state_dict().items()}
    open_backbone("toy", checkpoint=_file(tmp_path / "good.safetensors", state))
    state["norm.num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(BenchError, match=r"num_batches_tracked holds torch\.float32"):
        open_backbone("toy", checkpoint=_file(tmp_path / "bad.safetensors", state))


@pytest.mark.fault(19)
def test_weights_without_names_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.ones(1)}, tmp_path / "m.pt")
    with pytest.raises(BenchError, match="other than named tensors"):
        read_state(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["model"])
@pytest.mark.fault(19)
def test_weights_that_hold_themselves_are_refused(tmp_path: Path, name: str) -> None:
    content: dict[str, object] = {"epoch": torch.ones(1)}
    content[name] = content
    torch.save(content, tmp_path / "loop.pt")
    with pytest.raises(BenchError, match="more than 3 wrappers deep"):
        read_state(tmp_path / "loop.pt")


def test_pickled_state_dicts_are_read_bare_or_wrapped(tmp_path: Path) -> None:
    for suffix in (".pt", ".pth", ".bin", ".ckpt"):
        for wrapper in ("", "state_dict", "model"):
            file = tmp_path / f"m{suffix}"
            torch.save({wrapper: _state(), "epoch": 3} if wrapper else _state(), file)
            assert read_state(file).keys() == _state().keys()


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
        read_state(file)
    assert not marker.exists()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in str(caught.value)
    pickle.loads(pickle.dumps(_Payload(marker)))  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
@pytest.mark.fault(19)
def test_a_truncated_file_is_refused_by_name_and_hash(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole-{name}"
    torch.save(_state(), whole) if name.endswith("pt") else save_file(_state(), whole)
    file = tmp_path / name
    for end in (0, 3, 8, 40, -1):
        file.write_bytes(whole.read_bytes()[:end])
        with pytest.raises(BenchError, match=rf"{name} \(sha256 [0-9a-f]{{64}}\) were not read"):
            read_state(file)


@pytest.mark.fault(19)
def test_no_changed_bit_gives_other_weights(tmp_path: Path) -> None:
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
            found = read_state(file)
        except BenchError as error:
            refused += "sha256" in str(error)
        else:  # where zip files have names and times, that nobody reads
            assert found.keys() == _state().keys()
            assert all(torch.equal(each, _state()[name]) for name, each in found.items())
    assert refused > len(headers)


@pytest.mark.fault(19)
def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    torch.save({"epoch": 3, "conv.weight": torch.zeros(3)}, tmp_path / "mixed.pt")
    for file in tmp_path.glob("*.pt"):
        with pytest.raises(BenchError, match="something other than named tensors"):
            read_state(file)


@pytest.mark.fault(19)
def test_a_file_of_another_kind_names_the_kinds(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    file.touch()
    with pytest.raises(BenchError, match=r"\.safetensors.*\.pt, \.pth, \.bin, \.ckpt"):
        read_state(file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"conv.weight": torch.zeros(4, 3, 3, 3)}, "size mismatch for conv.weight"),
        ({"teacher.head": torch.zeros(2)}, "teacher.head"),
        ({"conv.bias": None}, "conv.bias"),
    ],
)
@pytest.mark.fault(19)
def test_other_shapes_extra_and_missing_keys_are_named_with_the_file(
    register: Callable[..., Backbone],
    tmp_path: Path,
    change: dict[str, Tensor | None],
    named: str,
) -> None:
    register()
    state = {name: each for name, each in (_state() | change).items() if each is not None}
    file = _file(tmp_path / "other.safetensors", state)
    with pytest.raises(BenchError) as caught:
        open_backbone("toy", checkpoint=file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)
    assert "weights of toy" in str(caught.value)


def test_the_first_complaints_of_many_are_enough(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register()
    state = _state() | {f"blocks.{i}.attention.weight": torch.zeros(1) for i in range(1000)}
    with pytest.raises(BenchError) as caught:
        open_backbone("toy", checkpoint=_file(tmp_path / "m.safetensors", state))
    assert len(str(caught.value)) < 800


@pytest.mark.fault(19)
def test_a_converter_that_fails_on_a_foreign_file_is_told_as_such(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    register(convert=lambda state, extractor: {"conv.weight": state["patch_embed.weight"]})
    with pytest.raises(BenchError, match=r"does not contain weights of toy: KeyError.*patch_embed"):
        open_backbone("toy", checkpoint=_file(tmp_path / "m.safetensors"))


def test_a_converter_gets_the_state_and_the_extractor(
    register: Callable[..., Backbone], tmp_path: Path
) -> None:
    def convert(state: Any, extractor: nn.Module) -> dict[str, Tensor]:
        assert isinstance(extractor, Toy)
        return {name.removeprefix("teacher."): each for name, each in state.items()}

    register(convert=convert)
    state = {f"teacher.{name}": each for name, each in _state(0.25).items()}
    opened = open_backbone("toy", checkpoint=_file(tmp_path / "m.safetensors", state))
    assert (opened.extractor.conv.weight == 0.25).all()  # type: ignore[union-attr, operator]


# ---- the hub ---------------------------------------------------------------------------------


def _http(kind: type[Any], status: int) -> BaseException:
    return kind(f"sent {CANARY}", response=_answer(status))


def _wrapped(cause: BaseException) -> BaseException:
    error = RuntimeError(f"loading failed {CANARY}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_wrapped(_http(errors.GatedRepoError, 401)), "is gated"),
        (errors.LocalEntryNotFoundError(CANARY), "cannot be reached"),
        (ConnectionError(CANARY), "cannot be reached"),
        (_wrapped(errors.OfflineModeIsEnabled(CANARY)), "HF_HUB_OFFLINE is set"),
        (OSError(errno.ENOSPC, CANARY), "No space left on device"),
        (ValueError(CANARY), "ValueError"),
    ],
)
@pytest.mark.fault(23, 28)
def test_a_failed_download_says_why_and_what_else_to_do_but_never_the_token(
    register: Callable[..., Backbone],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: str,
) -> None:
    register(weights=HUB)
    monkeypatch.setenv("HF_TOKEN", CANARY)

    def download(*_: object, **__: object) -> str:
        raise error

    _hub_gives(monkeypatch, download)
    with pytest.raises(BenchError) as caught:
        open_backbone("toy")
    message = str(caught.value)
    for part in (told, "lab/model", "--checkpoint FILE", "--weights random"):
        assert part in message
    assert CANARY not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.OfflineModeIsEnabled(), "HF_HUB_OFFLINE is set"),
        (RuntimeError("of the HTTP library"), "cannot be reached"),
    ],
)
@pytest.mark.fault(28)
def test_the_hub_is_asked_once_before_a_download_that_would_keep_trying(
    register: Callable[..., Backbone],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: str,
) -> None:
    register(weights=HUB)
    _hub_raises(monkeypatch, error)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked twice")
    )
    with pytest.raises(BenchError, match=told):
        open_backbone("toy")


def test_a_download_that_was_interrupted_is_not_explained_away(
    register: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(weights=HUB)
    _hub_raises(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        open_backbone("toy")
