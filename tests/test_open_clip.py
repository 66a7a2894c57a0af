"""open_clip image towers as feature extractors, against the output of open_clip."""

from __future__ import annotations

import sys
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from bench import registry
from bench.backbones._open_clip import (
    SMALLEST_TEXT_TOWER,
    ResNetTower,
    ViTTower,
    build_tower,
    tower_state,
)
from bench.backbones._timm import TimmExtractor
from bench.errors import BenchError
from bench.models.load import describe

HALF = (0.5, 0.5, 0.5)
RELEASED = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _visual(seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
        "image_size": 64,
    }
    return _tower(48, settings | fields).eval()


def _tower(width: int, vision: dict[str, Any]) -> Any:
    return open_clip.CLIP(width, vision, SMALLEST_TEXT_TOWER).visual  # type: ignore[arg-type]


# ---- the towers ------------------------------------------------------------------------------


def test_the_map_is_open_clips_normalised_patch_tokens() -> None:
    images = _images(2, 3, 64, 64)
    for fields in ({}, {"no_ln_pre": True, "pool_type": "avg"}):
        expected = _visual(**fields).forward_intermediates(
            2 * images - 1, indices=1, normalize_intermediates=True, output_extra_tokens=True
        )
        tower = ViTTower(_visual(**fields), HALF, HALF)
        torch.testing.assert_close(tower(images)[0], expected["image_intermediates"][0])
        prefix = expected["image_intermediates_prefix"][0]
        torch.testing.assert_close(tower.embed(images), prefix[:, 0])
    coca = {"attentional_pool": True, "attn_pooler_heads": 4}
    expected = _visual(**coca).forward_intermediates(2 * images - 1, indices=1)
    tower = ViTTower(_visual(**coca), HALF, HALF)
    torch.testing.assert_close(tower(images)[0], expected["image_intermediates"][0])


def test_positions_are_resized_for_other_image_sizes() -> None:
    tower = ViTTower(_visual(), HALF, HALF)
    images = _images(1, 3, 96, 160)
    (level,) = tower(images)
    assert level.shape == (1, 64, 6, 10)
    one_patch = images.clone()
    one_patch[:, :, :16, 144:] = 0.5
    changed = (tower(one_patch)[0] - level).abs().sum(dim=1)[0]  # (6, 10)
    assert changed.argmax() == 9


def test_the_resnet_tower_gives_its_last_map() -> None:
    fields = {"layers": (1, 1, 1, 1), "width": 8}
    reference, images = _visual(**fields), _images(2, 3, 64, 96)
    tower = ResNetTower(_visual(**fields), HALF, HALF)
    (level,) = tower(images)
    assert level.shape == (2, tower.channels[0], 2, 3)
    stages = (reference.layer1, reference.layer2, reference.layer3, reference.layer4)
    expected = torch.nn.Sequential(*stages)(reference.stem(2 * images - 1))
    torch.testing.assert_close(level, expected)


# ---- loading ---------------------------------------------------------------------------------


def test_the_tower_is_loaded_from_the_state_of_a_whole_clip() -> None:
    released = _visual(seed=1)
    state = {f"visual.{name}": weight for name, weight in released.state_dict().items()}
    state |= {"logit_scale": torch.zeros(()), "transformer.resblocks.0.attn": torch.zeros(3)}
    tower = ViTTower(_visual(), HALF, HALF)
    tower.load(tower_state(state, tower))
    images = _images(1, 3, 64, 64)
    expected = released.forward_intermediates(
        2 * images - 1, indices=1, normalize_intermediates=True
    )
    torch.testing.assert_close(tower(images)[0], expected["image_intermediates"][0])
    larger = {f"visual.{name}": v for name, v in _visual(1, image_size=96).state_dict().items()}
    tower.load(tower_state(larger, tower))
    assert tower.visual.positional_embedding.shape == (37, 64)  # the grid of the file
    assert not any(weight.requires_grad for weight in tower.parameters())
    with pytest.raises(BenchError, match=r"no name starts with 'visual\.'"):
        tower_state({"stem.weight": torch.zeros(3)}, tower)


@pytest.mark.parametrize("model", ["RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP"])
def test_every_kind_of_tower_loads_open_clips_names(model: str) -> None:
    config: Any = open_clip.get_model_config(model)
    with torch.device("meta"):
        extractor = build_tower(model, RELEASED)
        visual = _tower(config["embed_dim"], config["vision_cfg"])
        state = {f"visual.{name}": weight for name, weight in visual.state_dict().items()}
        extractor.load(tower_state(state, extractor))
        side = 7 * extractor.strides[0]
        assert extractor(torch.empty(1, 3, side, side))[0].shape == (1, extractor.channels[0], 7, 7)
    assert (extractor.mean, extractor.std) == (RELEASED["mean"], RELEASED["std"])


def test_a_timm_tower_equals_open_clips_wrapper() -> None:
    torch.manual_seed(0)
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160}
    visual = _tower(8, vision).eval()
    extractor = TimmExtractor("test_vit", mean=HALF, std=HALF)
    state = {f"visual.{name}": weight for name, weight in visual.state_dict().items()}
    extractor.load(tower_state(state, extractor))
    images = _images(1, 3, 160, 160)
    expected = visual.forward_intermediates(2 * images - 1, indices=1, normalize_intermediates=True)
    torch.testing.assert_close(extractor(images)[0], expected["image_intermediates"][0])


# ---- the family ------------------------------------------------------------------------------


def test_a_release_has_its_weights_and_colours() -> None:
    info = describe("open_clip:ViT-B-32/laion2b_s34b_b79k")
    weights = info.backbone.weights
    assert weights.repo == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert weights.file == "open_clip_model.safetensors"
    assert info.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert (info.channels, info.strides) == ((768,), (32,))
    assert info.parameters == info.backbone.params == 87_456_000


def test_a_release_trained_with_quick_gelu_uses_it() -> None:
    from open_clip.transformer import QuickGELU

    for tag, is_quick in (("openai", True), ("laion2b_s34b_b79k", False)):
        with torch.device("meta"):
            tower: Any = registry.get("backbones", f"open_clip:ViT-B-32/{tag}").build()
        assert any(isinstance(module, QuickGELU) for module in tower.modules()) == is_quick


def test_unknown_models_and_a_missing_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"Did you mean .*ViT-B-32.*open_clip:MODEL/PRETRAINED"):
        registry.get("backbones", "open_clip:ViT-B32/openai")
    with pytest.raises(BenchError, match=r"no weights 'laion'; it has: openai, laion400m_e31"):
        registry.get("backbones", "open_clip:ViT-B-32/laion")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(BenchError, match="pip install open_clip_torch"):
        registry.get("backbones", "open_clip:ViT-B-32/openai")
