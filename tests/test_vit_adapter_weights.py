"""Weights that a ViT-Adapter takes: its own, or those of a plain ViT in timm's names."""

from __future__ import annotations

import pytest
import timm
import torch
from small_adapter import WIDTH, awake, miniature, noise, timm_vit

from bench import registry
from bench.backbones.vit_adapter import convert
from bench.testing import check_backbone


def test_a_plain_vit_fills_the_vit_and_leaves_the_adapter_as_built() -> None:
    model = miniature()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    released = timm_vit(init_values=0.1)
    model.load(convert(released.state_dict(), model))
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in changed} == {"vit"}
    for name in ("patch_embed.weight", "blocks.3.attn.qkv.weight", "pos_embed"):
        given = released.state_dict()[name.replace("embed.w", "embed.proj.w")]
        assert torch.equal(after[f"vit.{name}"], given)
    assert torch.equal(after["vit.blocks.7.ls2"], torch.full((WIDTH,), 0.1))


def test_an_adapters_own_weights_are_taken_as_they_are() -> None:
    trained, fresh, images = awake(miniature()), miniature(grid=3), noise(1, 3, 64, 64)
    assert not torch.allclose(fresh(images)[1], trained(images)[1])
    fresh.load(convert(trained.state_dict(), fresh))
    assert torch.equal(fresh(images)[1], trained(images)[1])


@pytest.mark.parametrize("name", ["vit.blocks.0.ls1", "injectors.0.gain"])
def test_an_adapters_own_weights_must_be_all_there(name: str) -> None:
    model = miniature()
    state = {key: each for key, each in model.state_dict().items() if key != name}
    with pytest.raises(RuntimeError, match=name):
        model.load(convert(state, model))


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.bias"])
def test_a_plain_vit_with_a_missing_weight_is_refused(name: str) -> None:
    model = miniature()
    state = {key: each for key, each in timm_vit().state_dict().items() if key != name}
    with pytest.raises(RuntimeError, match=name.replace("proj.", "")):
        model.load(convert(state, model))


def test_a_vit_of_another_make_is_refused() -> None:
    model = miniature()
    with pytest.raises(RuntimeError, match="reg_token"):
        model.load(convert(timm_vit(reg_tokens=1).state_dict(), model))


def test_positions_keep_the_grid_on_which_they_were_learned() -> None:
    model = miniature(grid=6)
    state = timm_vit().state_dict()
    model.load(convert(state, model))
    assert torch.equal(model.vit.pos_embed, state["pos_embed"])
    assert model.vit.pos_embed.requires_grad
    assert check_backbone(model, sizes=[(64, 96)]) == []


@pytest.mark.parametrize(
    ("name", "released"),
    [
        ("vit-adapter-b", "deit_base_patch16_224"),
        ("vit-adapter-l", "vit_large_patch16_384"),
    ],
)
def test_the_names_and_shapes_of_the_release_of_the_original_fit(name: str, released: str) -> None:
    with torch.device("meta"):
        model = registry.get("backbones", name).build()
        state = timm.create_model(released).state_dict()
    shapes = {key: each.shape for key, each in convert(state, model).items()}
    assert shapes == {key: each.shape for key, each in model.state_dict().items()}
