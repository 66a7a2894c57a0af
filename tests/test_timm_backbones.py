"""timm models as feature extractors: records, maps, loading, and real weights if present."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from bench import registry
from bench.backbones._timm import TimmExtractor, released_state
from bench.errors import BenchError
from bench.models.load import open_backbone

VIT = "vit_tiny_patch16_224"
VIT_OPTIONS = {"depth": 2, "img_size": 64}


def _images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def _vit(architecture: str = VIT, **options: object) -> TimmExtractor:
    torch.manual_seed(0)
    return TimmExtractor(architecture, options=VIT_OPTIONS | options)


# ---- records ---------------------------------------------------------------------------------


def test_records_agree_with_timms_releases() -> None:
    for name in ("dinov2-s", "dinov2-l-reg", "dinov3-l", "dinov3-convnext-b", "convnextv2-b",
                 "mae-l", "sam-b"):  # fmt: skip
        record = registry.get("backbones", name)
        network = record.build.__self__
        released = timm.get_pretrained_cfg(network.architecture)
        assert released is not None, name
        assert record.weights.repo == released.hf_hub_id
        assert record.license.lower() == released.license
        colours = (tuple(released.mean), tuple(released.std))
        assert network.colours in (None, colours), name  # None: timm's


def test_the_controls_need_no_weights() -> None:
    image = _images(1, 3, 32, 32)
    rgb = open_backbone("rgb")
    assert (rgb.identity, rgb.untrained) == ("none", False)
    assert torch.equal(rgb.extractor(image)[0], (image - 0.5) / 0.5)
    vit = open_backbone("random-vit-s")
    assert (vit.identity, vit.untrained) == ("random:0", True)
    assert vit.extractor.mean == (0.485, 0.456, 0.406)
    assert vit.extractor(image)[0].shape == (1, 384, 2, 2)


# ---- the family ------------------------------------------------------------------------------


def test_a_model_of_the_family_has_the_fields_of_timms_entry() -> None:
    record = registry.get("backbones", "timm:vit_small_patch14_dinov2.lvd142m")
    assert record.weights.repo == "timm/vit_small_patch14_dinov2.lvd142m"
    assert record.weights.file == "model.safetensors"
    assert (record.license, record.params, record.input_px) == ("apache-2.0", 22_056_192, None)
    fixed = registry.get("backbones", "timm:test_vit_relpos")
    assert fixed.input_px == 160
    with torch.device("meta"), pytest.raises(BenchError, match="--input-px 160"):
        fixed.build()(torch.empty(1, 3, 224, 224))


def test_unknown_and_unsuitable_models_are_refused() -> None:
    for name, problem in (
        ("resnet5O", "Did you mean resnet50"),
        ("vit_large_patch16_224.mae2", r"no release 'mae2'; it has .*\bmae\b"),
        ("inception_v3", "cannot be a dense extractor"),
    ):
        with pytest.raises(BenchError, match=problem):
            registry.get("backbones", f"timm:{name}")
    with pytest.raises(BenchError, match="divisible by 16, got 64 x 72"):
        _vit()(_images(1, 3, 64, 72))


# ---- what the maps are -----------------------------------------------------------------------


def test_any_model_gives_one_finite_map_of_the_declared_size() -> None:
    torch.manual_seed(0)
    for architecture in (
        "test_vit4", "test_convnext", "test_resnet", "test_nfnet", "test_mambaout",
    ):  # fmt: skip
        extractor = TimmExtractor(architecture)
        (stride,), (channels,) = extractor.strides, extractor.channels
        images = _images(2, 3, 3 * stride, 4 * stride)
        (level,) = extractor(images)
        assert level.shape == (2, channels, 3, 4), architecture
        assert level.isfinite().all(), architecture
        assert extractor.embed(images).shape == (2, channels), architecture


def test_a_vit_with_average_pooling_applies_its_final_norm() -> None:
    extractor = _vit(global_pool="avg")
    images = _images(1, 3, 64, 64)
    (level,) = extractor(images)
    tokens = extractor.model.forward_features(extractor.normalise(images))[:, 1:]
    expected = extractor.model.fc_norm(tokens).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(level, expected)
    torch.testing.assert_close(extractor.embed(images), expected.mean(dim=(2, 3)))


# ---- loading ---------------------------------------------------------------------------------


def test_a_release_of_another_grid_with_a_classifier_is_loaded() -> None:
    torch.manual_seed(1)
    released = timm.create_model(VIT, pretrained=False, num_classes=10, depth=2, img_size=96)
    extractor = _vit()
    extractor.load(released_state(released.state_dict(), extractor))
    images = _images(1, 3, 96, 96)
    tokens = released.eval().forward_features(extractor.normalise(images))  # type: ignore[operator]
    torch.testing.assert_close(extractor(images)[0].flatten(2), tokens[:, 1:].transpose(1, 2))
    assert not any(weight.requires_grad for weight in extractor.parameters())
    state = dict(extractor.model.state_dict())
    renamed = {f"visual.trunk.{name}": weight for name, weight in state.items()}
    assert released_state(renamed, extractor).keys() == state.keys()
    del state["blocks.1.mlp.fc1.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.fc1\.weight"):
        extractor.load(released_state(state, extractor))


# ---- real weights ----------------------------------------------------------------------------


@pytest.mark.slow
def test_dinov2_s_with_real_weights_equals_timm(weights_dir: Path) -> None:
    from safetensors.torch import load_file

    file = weights_dir / "dinov2_vits14.safetensors"
    opened = open_backbone("dinov2-s", checkpoint=file)
    assert opened.identity.startswith("sha256:")
    assert not opened.untrained
    assert {each.dtype for each in opened.extractor.parameters()} == {torch.float32}
    images = _images(1, 3, 224, 224)
    reference = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, num_classes=0, dynamic_img_size=True
    ).eval()
    reference.load_state_dict(load_file(file), strict=True)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        (expected,) = reference.forward_intermediates(  # type: ignore[operator]
            pixels, indices=1, norm=True, intermediates_only=True
        )
        torch.testing.assert_close(opened.extractor(images)[0], expected)
        torch.testing.assert_close(
            opened.extractor.embed(images), reference(pixels), rtol=1e-4, atol=1e-4
        )
