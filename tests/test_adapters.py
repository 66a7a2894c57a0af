"""What trains on a frozen backbone: a CNN beside it, or low-rank updates inside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, FeatureExtractor
from bench.backbones._adapters import CNNAdapter
from bench.backbones._timm import TimmExtractor
from bench.errors import BenchError
from bench.models.load import describe, open_backbone
from bench.testing import check_backbone

VIT = "timm:test_vit"  # a miniature: 6 blocks of 64 channels, patch 16


class Frozen(FeatureExtractor):
    """A frozen extractor whose maps would change in training mode."""

    def __init__(self, channels: int = 6, stride: int = 16) -> None:
        super().__init__()
        self.channels, self.strides = (channels,), (stride,)
        self.mean, self.std = (0.6, 0.5, 0.6), (0.2, 0.2, 0.2)
        self.patches = nn.Conv2d(3, channels, stride, stride)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.patches(self.normalise(images)))]


def _build_frozen(*, channels: int = 6, stride: int = 16) -> FeatureExtractor:
    return Frozen(channels, stride)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a frozen backbone that has options, under this name."""
    found = [registry.LoadedPlugin(Backbone(name="frozen", build=_build_frozen), "tests")]
    monkeypatch.setitem(registry.catalogue("backbones").found, "frozen", found)
    return "frozen"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of `VIT` as timm releases them, with a classifier."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit", num_classes=5).state_dict(), file)
    return file


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _adapter(inner: FeatureExtractor) -> CNNAdapter:
    torch.manual_seed(0)
    return CNNAdapter(inner, width=32, units=(1, 1, 1))


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


def _step(extractor: FeatureExtractor, images: Tensor) -> None:
    """Train one step towards other maps; a norm at the end leaves their size no slope."""
    optimiser = torch.optim.AdamW(_trainable(extractor).values(), lr=0.01)
    maps = extractor.train()(images)
    sum((each - _images(*each.shape)).square().mean() for each in maps).backward()  # type: ignore[union-attr]
    optimiser.step()
    optimiser.zero_grad()
    extractor.eval()


# ---- both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["cnn-adapter:", "lora:"])
def test_a_backbone_that_trains_by_itself_is_refused(prefix: str) -> None:
    with pytest.raises(BenchError, match="transunet trains 97,888,576 parameters itself"):
        describe(f"{prefix}transunet")


@pytest.mark.parametrize("prefix", ["cnn-adapter:", "lora:"])
def test_an_unknown_backbone_is_refused(prefix: str) -> None:
    with pytest.raises(BenchError, match="unknown backbone 'dinov2-x'"):
        registry.get("backbones", f"{prefix}dinov2-x")


@pytest.mark.parametrize("prefix", ["cnn-adapter:", "lora:"])
def test_what_is_known_of_the_backbone_is_kept(prefix: str) -> None:
    inner = registry.get("backbones", "dinov2-s")
    record = registry.get("backbones", f"{prefix}dinov2-s")
    for name in ("weights", "license", "trained_on", "input_px", "patch", "mpp", "gated"):
        assert getattr(record, name) == getattr(inner, name)
    assert record.name == f"{prefix}dinov2-s"


def test_the_options_of_the_backbone_are_taken_too(frozen: str) -> None:
    told = describe(f"cnn-adapter:{frozen}", {"channels": "9", "stride": "8"})
    assert (told.channels, told.strides) == ((64, 256, 512, 9), (2, 4, 8, 8))
    with pytest.raises(BenchError, match="no option 'rank'; it takes channels, stride"):
        describe(f"cnn-adapter:{frozen}", {"rank": "2"})
    with pytest.raises(BenchError, match="it takes rank, alpha, channels, stride"):
        describe(f"lora:{frozen}", {"blocks": "2"})


# ---- a CNN beside it -------------------------------------------------------------------------


def test_beside_uni2_h_as_many_parameters_train_as_in_the_paper() -> None:
    with torch.device("meta"):
        extractor = CNNAdapter(Frozen(1536, 14))
        plugin = registry.get("heads", registry.get("backbones", "cnn-adapter:rgb").default_head)
        head = plugin.build(extractor.channels, extractor.strides, 2)
    trained = [*_trainable(extractor).values(), *head.parameters()]
    assert sum(each.numel() for each in trained) == 22_821_282


@pytest.mark.parametrize("stride", [8, 14])
def test_a_cnn_adapter_keeps_its_promises(stride: int) -> None:
    sizes = [(7 * stride, 7 * stride), (3 * stride, 5 * stride)]  # 98: no multiple of 4 or 8
    assert check_backbone(_adapter(Frozen(stride=stride)), sizes=sizes) == []


def test_a_member_of_the_family_keeps_its_promises() -> None:
    assert check_backbone(f"cnn-adapter:{VIT}", sizes=[(32, 48)]) == []


def test_maps_that_are_cut_keep_their_place() -> None:
    adapter = _adapter(Frozen(stride=14))
    for name, part in [*adapter.cnn.named_modules()]:
        if isinstance(part, nn.GroupNorm):  # it would tell the whole map of the edge
            adapter.cnn.set_submodule(name, nn.Identity())
    fits = _images(1, 3, 224, 224)
    for whole, cut in zip(adapter(fits)[:3], adapter(fits[..., :210, :210])[:3], strict=True):
        half = cut.shape[-1] // 2
        near = (slice(None), slice(None), slice(half), slice(half))
        torch.testing.assert_close(cut[near], whole[near], rtol=1e-3, atol=1e-3)


def test_the_last_map_is_that_of_the_backbone() -> None:
    inner, images = Frozen(), _images(2, 3, 32, 48)
    (wanted,) = inner(images)
    adapter = _adapter(inner).train()
    *_, last = adapter(images)
    assert torch.equal(last, wanted)
    assert not last.requires_grad
    assert adapter.cnn.training


def test_the_cnn_trains_and_the_backbone_stays(frozen: str) -> None:
    adapter, images = _adapter(Frozen()), _images(2, 3, 32, 32)
    kept = {name: each.clone() for name, each in adapter.inner.state_dict().items()}
    before = [each.clone() for each in adapter(images)]
    _step(adapter, images)
    after = adapter(images)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False] * 3 + [True]
    assert all(torch.equal(each, kept[n]) for n, each in adapter.inner.state_dict().items())


def test_the_third_stage_is_counted_and_never_run() -> None:
    adapter = _adapter(Frozen()).train()
    sum(each.sum() for each in adapter(_images(1, 3, 32, 32))).backward()  # type: ignore[union-attr]
    idle = {name for name, each in _trainable(adapter).items() if each.grad is None}
    assert idle == {name for name in _trainable(adapter) if name.startswith("cnn.stages.2.")}
    assert idle


def test_layers_hold_what_trains_and_nothing_else() -> None:
    adapter = _adapter(Frozen())
    (group,) = adapter.layers()
    assert {id(each) for each in group} == {id(each) for each in _trainable(adapter).values()}


def test_weights_go_to_the_backbone_alone(released: Path) -> None:
    alone = open_backbone(VIT, checkpoint=released)
    opened = open_backbone(f"cnn-adapter:{VIT}", checkpoint=released)
    images = _images(1, 3, 160, 160)
    assert torch.equal(opened.extractor(images)[-1], alone.extractor(images)[0])
    assert (opened.identity, opened.untrained) == (alone.identity, False)
    assert open_backbone(f"cnn-adapter:{VIT}@random").untrained


def test_a_backbone_without_coarse_maps_is_refused() -> None:
    with pytest.raises(BenchError, match="this one's has stride 1"):
        describe("cnn-adapter:rgb")


# ---- LoRA ------------------------------------------------------------------------------------


@pytest.fixture
def lora() -> FeatureExtractor:
    pytest.importorskip("peft")
    return open_backbone(f"lora:{VIT}@random").extractor


@pytest.mark.parametrize("rank", [8])
def test_lora_trains_rank_times_in_plus_out_a_layer(rank: int) -> None:
    pytest.importorskip("peft")
    with torch.device("meta"):
        inner = TimmExtractor("vit_small_patch14_dinov2")
    blocks = inner.model.blocks
    linear = [layer for block in blocks for layer in (block.attn.qkv, block.attn.proj)]
    wanted = sum(rank * (layer.in_features + layer.out_features) for layer in linear)
    assert wanted == rank * 12 * (384 + 3 * 384 + 384 + 384)
    told = describe("lora:dinov2-s", {"rank": str(rank)})
    assert told.trainable_parameters == wanted
    assert told.parameters == wanted + 22_056_192


def test_lora_keeps_its_promises() -> None:
    pytest.importorskip("peft")
    assert check_backbone(f"lora:{VIT}", sizes=[(32, 48), (64, 64)]) == []


@pytest.mark.parametrize("mode", [True, False])
def test_lora_starts_from_the_maps_of_the_backbone_to_the_bit(released: Path, mode: bool) -> None:
    pytest.importorskip("peft")
    alone = open_backbone(VIT, checkpoint=released).extractor
    adapted = open_backbone(f"lora:{VIT}", checkpoint=released).extractor.train(mode)
    images = _images(2, 3, 160, 160)
    assert torch.equal(adapted(images)[0], alone(images)[0])
    assert torch.equal(adapted.embed(images), alone.embed(images))


def test_lora_changes_the_maps_and_not_the_backbone(lora: FeatureExtractor) -> None:
    images = _images(2, 3, 32, 48)
    frozen = {n: each.clone() for n, each in lora.named_parameters() if not each.requires_grad}
    (before,) = lora(images)
    for _ in range(2):
        _step(lora, images)
    (after,) = lora(images)
    assert not torch.allclose(before, after, atol=1e-4)
    assert all(torch.equal(each, frozen[n]) for n, each in lora.named_parameters() if n in frozen)


def test_every_weight_of_lora_moves(lora: FeatureExtractor) -> None:
    before = {name: each.detach().clone() for name, each in _trainable(lora).items()}
    for _ in range(2):  # at the first step B is 0, and A gets no slope
        _step(lora, _images(2, 3, 32, 48))
    assert all(not torch.equal(each, before[name]) for name, each in _trainable(lora).items())
    assert {name.split(".")[-3] for name in before} == {"lora_A", "lora_B"}
    assert sum(each.numel() for group in lora.layers() for each in group) == sum(
        each.numel() for each in before.values()
    )


def test_an_adapted_layer_is_known_by_hand() -> None:
    pytest.importorskip("peft")
    built = registry.get("backbones", f"lora:{VIT}").build(rank=3, alpha=6.0)
    layer = built.inner.model.blocks[1].attn.qkv
    down, up = layer.lora_A.default.weight, layer.lora_B.default.weight
    torch.nn.init.normal_(up)
    tokens = _images(2, 5, 64)
    wanted = tokens @ (layer.base_layer.weight + 6.0 / 3 * up @ down).T + layer.base_layer.bias
    torch.testing.assert_close(layer(tokens), wanted, rtol=1e-4, atol=1e-4)


def test_one_seed_gives_the_same_lora(lora: FeatureExtractor) -> None:
    again = _trainable(open_backbone(f"lora:{VIT}@random").extractor)
    assert all(torch.equal(each, again[name]) for name, each in _trainable(lora).items())


@pytest.mark.parametrize("name", ["rgb", "convnextv2-b"])
def test_a_backbone_without_attention_gets_the_names_that_were_looked_for(name: str) -> None:
    pytest.importorskip("peft")
    with pytest.raises(BenchError, match=r"attn\.qkv and attn\.proj"):
        describe(f"lora:{name}")


def test_a_network_that_reads_past_its_layers_is_refused() -> None:
    pytest.importorskip("peft")
    with pytest.raises(BenchError, match=r"24 of its 48 weights, such as .*attn\.qkv"):
        describe("lora:timm:beit_base_patch16_224")


@pytest.mark.parametrize("option", [{"rank": "0"}, {"alpha": "-1"}])
def test_a_rank_or_an_alpha_that_is_not_above_0_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(BenchError, match="above 0"):
        describe(f"lora:{VIT}", option)


def test_a_missing_library_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BenchError, match=r"pip install 'cmd-bench\[lora\]'"):
        describe(f"lora:{VIT}")


@pytest.mark.parametrize("family", ["cnn-adapter", "lora"])
def test_an_adapter_takes_the_cached_weights_of_its_backbone(family: str) -> None:
    assert registry.get("backbones", f"{family}:dinov2-s").weights_name == "dinov2-s"
