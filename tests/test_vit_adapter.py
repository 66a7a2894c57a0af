"""ViT-Adapter: its counts, its trunk against timm's, its maps, and the weights that it takes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bench import registry
from bench.backbones._deformable import Size
from bench.backbones._vit_adapter import ViTAdapter
from bench.backbones.vit_adapter import convert
from bench.testing import check_backbone
from bench.weights import describe

WIDTH, DEPTH, HEADS = 32, 8, 4
STRIDES = (4, 8, 16, 32)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def miniature(drop_path: float = 0.3, grid: int = 4) -> ViTAdapter:
    torch.manual_seed(0)
    return ViTAdapter(WIDTH, DEPTH, HEADS, grid=grid, drop_path=drop_path).eval()


def awake(model: ViTAdapter) -> ViTAdapter:
    """Give every injector a gain, as training would."""
    for inject in model.injectors:
        nn.init.ones_(inject.gain)  # type: ignore[arg-type]
    return model


# ---- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backbone", "whole"),
    [
        ("vit-adapter-b", 99_495_392, 133_522_916),
        ("vit-adapter-l", 326_973_632, 363_688_132),
    ],
)
def test_the_parameters_are_those_of_the_original(name: str, backbone: int, whole: int) -> None:
    told = describe(name)
    with torch.device("meta"):
        head = registry.get("heads", told.backbone.default_head).build(
            told.channels, told.strides, 2
        )
    assert told.parameters == told.trainable_parameters == told.backbone.params == backbone
    assert told.parameters + sum(each.numel() for each in head.parameters()) == whole


# ---- the trunk -------------------------------------------------------------------------------


def timm_vit(**options: Any) -> Any:
    torch.manual_seed(1)
    small: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    return VisionTransformer(img_size=64, num_classes=5, **small | options).eval()


def tokens_of(model: ViTAdapter, images: Tensor) -> Tensor:
    """Run the whole and give what leaves the last block of the ViT."""
    seen: list[Tensor] = []
    handle = model.vit.blocks[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    with torch.inference_mode():
        model(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_at_first_the_vit_is_a_plain_one_by_timms_account(size: Size) -> None:
    model = miniature()
    model.load(convert(timm_vit().state_dict(), model))
    plain = timm_vit(class_token=False, global_pool="", dynamic_img_size=True)
    state = timm_vit().state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:]
    plain.load_state_dict({name: each for name, each in state.items() if name != "cls_token"})
    images = noise(2, 3, *size)
    with torch.inference_mode():
        (wanted,) = plain.forward_intermediates(
            model.normalise(images), indices=1, output_fmt="NLC", intermediates_only=True
        )
    torch.testing.assert_close(tokens_of(model, images), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tokens_of(awake(model), images), wanted, atol=1e-3)


# ---- the whole -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (384, 384), (512, 512), (160, 96)])
def test_the_four_maps_have_the_sizes_of_their_strides(size: Size) -> None:
    with torch.inference_mode():
        maps = miniature()(noise(1, 3, *size))
    height, width = size
    wanted = [(1, WIDTH, height // stride, width // stride) for stride in STRIDES]
    assert [tuple(each.shape) for each in maps] == wanted


def test_a_miniature_keeps_the_promises_of_a_backbone() -> None:
    assert check_backbone(awake(miniature())) == []


def test_what_moves_in_the_image_moves_in_every_map() -> None:
    """Half of the image is grey: the maps differ from those of a grey image in that half most."""
    grey = torch.full((1, 3, 128, 128), 0.5)
    images = grey.clone()
    images[..., :32, 96:] = noise(3, 32, 32)
    with torch.inference_mode():
        pairs = zip(miniature()(images), miniature()(grey), strict=True)
        changes = [(one - other).abs().mean(dim=(0, 1)) for one, other in pairs]
    for change in changes:
        near = change.shape[0] // 4
        corner = change[:near, -near:]
        assert corner.mean() > 2 * change[2 * near :, : 2 * near].mean()


def test_drop_path_is_at_work_in_training_alone() -> None:
    images = noise(4, 3, 64, 64)

    def differs(model: ViTAdapter) -> bool:
        with torch.no_grad():
            return not torch.equal(model(images)[0], model(images)[0])

    assert not differs(miniature(drop_path=0.5).eval())
    assert differs(miniature(drop_path=0.5).train())
    assert not differs(miniature(drop_path=0.0).train())
    drops = [getattr(block, "drop_path").drop_prob for block in miniature(0.35).vit.blocks]  # noqa: B009
    assert drops == pytest.approx([0.05 * i for i in range(DEPTH)])


def test_every_weight_trains_and_gets_a_gradient() -> None:
    model = awake(miniature(drop_path=0.0)).train()
    sum(each.square().mean() for each in model(noise(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    missing = [name for name, each in model.named_parameters() if each.grad is None]
    assert missing == []


def test_layers_go_from_the_patches_over_the_blocks_to_the_adapter() -> None:
    model = miniature()
    names = {id(each): name for name, each in model.named_parameters()}
    groups = [[names[id(each)] for each in group] for group in model.layers()]
    assert len(groups) == DEPTH + 2
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    assert set(groups[0]) == {"vit.patch_embed.weight", "vit.patch_embed.bias", "vit.pos_embed"}
    for number, group in enumerate(groups[1:-1]):
        assert all(name.startswith(f"vit.blocks.{number}.") for name in group)
    assert not any(name.startswith("vit.") for name in groups[-1])


def test_autocast_changes_the_maps_by_little() -> None:
    model, images = awake(miniature()), noise(2, 3, 64, 64)
    with torch.inference_mode():
        plain = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images)
    for one, other in zip(plain, rounded, strict=True):
        assert (one - other).abs().mean() < 0.02 * one.abs().mean()


def test_it_learns_two_images_by_heart() -> None:
    model = miniature(drop_path=0.0, grid=4).train()
    head = registry.get("heads", "linear").build(model.channels, model.strides, 2)
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[0, 8:32, 20:60], target[1, 36:52, 4:28] = 1, 1
    images = noise(2, 3, 64, 64) * 0.5 + 0.3 * target[:, None]
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        head.training_loss(model(images), target).backward()
        optimiser.step()
    found = head.decode(head(model(images), size=(64, 64)))
    assert (found == target).float().mean() > 0.98


# ---- released weights of a plain ViT ---------------------------------------------------------


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


@pytest.mark.parametrize("name", ["up.weight", "vit.blocks.0.ls1", "injectors.0.gain"])
def test_an_adapters_own_weights_must_be_all_there(name: str) -> None:
    model = miniature()
    state = {key: each for key, each in model.state_dict().items() if key != name}
    with pytest.raises(RuntimeError, match=name):
        model.load(convert(state, model))


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.bias", "blocks.5.mlp.fc1.weight"])
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
