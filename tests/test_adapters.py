"""Adapters that train on a frozen backbone: a CNN beside it, or LoRA inside it."""

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
    plugin = registry.LoadedPlugin(Backbone(name="frozen", build=_build_frozen), "tests")
    monkeypatch.setitem(registry.catalogue("backbones").found, "frozen", [plugin])
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


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("cnn-adapter:transunet", {}, "transunet trains 97,888,576 parameters itself"),
        ("lora:transunet", {}, "transunet trains 97,888,576 parameters itself"),
        ("cnn-adapter:dinov2-x", {}, "unknown backbone 'dinov2-x'"),
        ("cnn-adapter:rgb", {}, "this one's has stride 1"),
        ("lora:rgb", {}, r"attn\.qkv and attn\.proj"),
        ("lora:timm:beit_base_patch16_224", {}, r"24 of its 48 weights, such as .*attn\.qkv"),
        (f"lora:{VIT}", {"rank": "0"}, "above 0"),
        (f"lora:{VIT}", {"alpha": "-1"}, "above 0"),
    ],
)
def test_an_unsuitable_backbone_or_option_is_refused(
    name: str, options: dict[str, str], problem: str
) -> None:
    if name.startswith("lora:"):
        pytest.importorskip("peft")
    with pytest.raises(BenchError, match=problem):
        describe(name, options)


@pytest.mark.parametrize("prefix", ["cnn-adapter:", "lora:"])
def test_the_record_has_the_fields_of_its_backbone(prefix: str) -> None:
    inner = registry.get("backbones", "dinov2-s")
    record = registry.get("backbones", f"{prefix}dinov2-s")
    for name in ("weights", "license", "trained_on", "input_px", "patch", "mpp", "gated"):
        assert getattr(record, name) == getattr(inner, name)
    assert (record.name, record.weights_name) == (f"{prefix}dinov2-s", "dinov2-s")


def test_options_of_the_backbone_are_accepted(frozen: str) -> None:
    info = describe(f"cnn-adapter:{frozen}", {"channels": "9", "stride": "8"})
    assert (info.channels, info.strides) == ((64, 256, 512, 9), (2, 4, 8, 8))
    with pytest.raises(BenchError, match="no option 'rank'; it takes channels, stride"):
        describe(f"cnn-adapter:{frozen}", {"rank": "2"})
    with pytest.raises(BenchError, match="it takes rank, alpha, channels, stride"):
        describe(f"lora:{frozen}", {"blocks": "2"})


# ---- a CNN beside it -------------------------------------------------------------------------


def test_the_cnn_beside_uni2_h_has_the_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        extractor = CNNAdapter(Frozen(1536, 14))
        plugin = registry.get("heads", registry.get("backbones", "cnn-adapter:rgb").default_head)
        head = plugin.build(extractor.channels, extractor.strides, 2)
    trained = [*_trainable(extractor).values(), *head.parameters()]
    assert sum(each.numel() for each in trained) == 22_821_282


def test_a_cnn_adapter_passes_the_checks() -> None:
    for stride in (8, 14):
        sizes = [(7 * stride, 7 * stride), (3 * stride, 5 * stride)]  # 98: no multiple of 4 or 8
        assert check_backbone(_adapter(Frozen(stride=stride)), sizes=sizes) == []
    assert check_backbone(f"cnn-adapter:{VIT}", sizes=[(32, 48)]) == []


def test_cropped_maps_stay_aligned() -> None:
    adapter = _adapter(Frozen(stride=14))
    for name, part in [*adapter.cnn.named_modules()]:
        if isinstance(part, nn.GroupNorm):  # it would tell the whole map of the edge
            adapter.cnn.set_submodule(name, nn.Identity())
    fits = _images(1, 3, 224, 224)
    for whole, cut in zip(adapter(fits)[:3], adapter(fits[..., :210, :210])[:3], strict=True):
        half = cut.shape[-1] // 2
        near = (slice(None), slice(None), slice(half), slice(half))
        torch.testing.assert_close(cut[near], whole[near], rtol=1e-3, atol=1e-3)


def test_the_cnn_trains_and_the_backbone_does_not_change(frozen: str) -> None:
    adapter, images = _adapter(Frozen()), _images(2, 3, 32, 32)
    weights = {name: weight.clone() for name, weight in adapter.inner.state_dict().items()}
    before = [level.clone() for level in adapter(images)]
    assert torch.equal(before[-1], adapter.inner(images)[0])
    (group,) = adapter.layers()
    assert {id(weight) for weight in group} == {id(w) for w in _trainable(adapter).values()}
    _step(adapter, images)
    after = adapter(images)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False] * 3 + [True]
    assert all(torch.equal(w, weights[name]) for name, w in adapter.inner.state_dict().items())


def test_a_checkpoint_is_loaded_into_the_backbone_alone(released: Path) -> None:
    alone = open_backbone(VIT, checkpoint=released)
    opened = open_backbone(f"cnn-adapter:{VIT}", checkpoint=released)
    images = _images(1, 3, 160, 160)
    assert torch.equal(opened.extractor(images)[-1], alone.extractor(images)[0])
    assert (opened.identity, opened.untrained) == (alone.identity, False)
    assert open_backbone(f"cnn-adapter:{VIT}@random").untrained


# ---- LoRA ------------------------------------------------------------------------------------


@pytest.fixture
def lora() -> FeatureExtractor:
    pytest.importorskip("peft")
    return open_backbone(f"lora:{VIT}@random").extractor


def test_lora_trains_rank_times_in_plus_out_weights_per_layer() -> None:
    pytest.importorskip("peft")
    with torch.device("meta"):
        blocks = TimmExtractor("vit_small_patch14_dinov2").model.blocks
    linear = [layer for block in blocks for layer in (block.attn.qkv, block.attn.proj)]
    count = sum(8 * (layer.in_features + layer.out_features) for layer in linear)
    assert count == 8 * 12 * (384 + 3 * 384 + 384 + 384)
    info = describe("lora:dinov2-s", {"rank": "8"})
    assert info.trainable_parameters == count
    assert info.parameters == count + 22_056_192


def test_lora_starts_with_exactly_the_maps_of_the_backbone(released: Path) -> None:
    pytest.importorskip("peft")
    alone = open_backbone(VIT, checkpoint=released).extractor
    adapted = open_backbone(f"lora:{VIT}", checkpoint=released).extractor
    images = _images(2, 3, 160, 160)
    for mode in (True, False):
        assert torch.equal(adapted.train(mode)(images)[0], alone(images)[0])
        assert torch.equal(adapted.embed(images), alone.embed(images))


def test_training_lora_changes_its_weights_and_maps_but_not_the_backbone(
    lora: FeatureExtractor,
) -> None:
    images = _images(2, 3, 32, 48)
    before = {name: weight.detach().clone() for name, weight in lora.named_parameters()}
    trainable = _trainable(lora)
    again = open_backbone(f"lora:{VIT}@random").extractor  # the seed decides
    assert all(torch.equal(weight, before[name]) for name, weight in _trainable(again).items())
    (first,) = lora(images)
    for _ in range(2):  # at the first step B is 0, and A has no gradient
        _step(lora, images)
    changed = {name for name, w in lora.named_parameters() if not torch.equal(w, before[name])}
    assert changed == trainable.keys()
    assert {name.split(".")[-3] for name in changed} == {"lora_A", "lora_B"}
    assert sum(w.numel() for group in lora.layers() for w in group) == sum(
        w.numel() for w in trainable.values()
    )
    assert not torch.allclose(first, lora(images)[0], atol=1e-4)


def test_lora_passes_the_checks_and_a_layer_equals_a_manual_one() -> None:
    pytest.importorskip("peft")
    assert check_backbone(f"lora:{VIT}", sizes=[(32, 48), (64, 64)]) == []
    built = registry.get("backbones", f"lora:{VIT}").build(rank=3, alpha=6.0)
    layer = built.inner.model.blocks[1].attn.qkv
    down, up = layer.lora_A.default.weight, layer.lora_B.default.weight
    torch.nn.init.normal_(up)
    tokens = _images(2, 5, 64)
    expected = tokens @ (layer.base_layer.weight + 6.0 / 3 * up @ down).T + layer.base_layer.bias
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-4, atol=1e-4)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BenchError, match=r"pip install 'cmd-bench\[lora\]'"):
        describe(f"lora:{VIT}")
