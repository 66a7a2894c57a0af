"""ViT-Adapter: parameter counts, its trunk against timm's, its maps, and its weights."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bench import registry
from bench.backbones._deformable import DeformableAttention, MapSize
from bench.backbones._plain_vit import Block
from bench.backbones._vit_adapter import Extractor, Injector, ViTAdapter
from bench.backbones.vit_adapter import convert
from bench.models.load import describe
from bench.testing import check_backbone

STRIDES = (4, 8, 16, 32)
WIDTH, DEPTH, HEADS = 32, 8, 4


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def miniature(drop_path: float = 0.3, grid: int = 4) -> ViTAdapter:
    torch.manual_seed(0)
    return ViTAdapter(WIDTH, DEPTH, HEADS, grid=grid, drop_path=drop_path).eval()


def open_gates(model: ViTAdapter) -> ViTAdapter:
    """Give every injector a gain, as training would do."""
    for inject in model.injectors:
        nn.init.ones_(inject.gain)  # type: ignore[arg-type]
    return model


def timm_vit(**options: Any) -> Any:
    torch.manual_seed(1)
    small: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    return VisionTransformer(img_size=64, num_classes=5, **small | options).eval()


# ---- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backbone", "whole"),
    [
        ("vit-adapter-b", 99_495_392, 133_522_916),
        ("vit-adapter-l", 326_973_632, 363_688_132),
    ],
)
def test_parameter_counts_are_those_of_the_original(name: str, backbone: int, whole: int) -> None:
    info = describe(name)
    with torch.device("meta"):
        head = registry.get("heads", info.backbone.default_head).build(
            info.channels, info.strides, 2
        )
    assert info.parameters == info.trainable_parameters == info.backbone.params == backbone
    assert info.parameters + sum(each.numel() for each in head.parameters()) == whole


# ---- the trunk -------------------------------------------------------------------------------


def tokens_of(model: ViTAdapter, images: Tensor) -> Tensor:
    """Run the whole and give what leaves the last block of the ViT."""
    seen: list[Tensor] = []
    handle = model.vit.blocks[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    with torch.inference_mode():
        model(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_the_trunk_starts_as_a_plain_vit_of_timm(size: MapSize) -> None:
    model = miniature()
    model.load(convert(timm_vit().state_dict(), model))
    plain = timm_vit(class_token=False, global_pool="", dynamic_img_size=True)
    state = timm_vit().state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:]
    plain.load_state_dict({name: each for name, each in state.items() if name != "cls_token"})
    images = noise(2, 3, *size)
    with torch.inference_mode():
        (expected,) = plain.forward_intermediates(
            model.normalise(images), indices=1, output_fmt="NLC", intermediates_only=True
        )
    torch.testing.assert_close(tokens_of(model, images), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tokens_of(open_gates(model), images), expected, atol=1e-3)


# ---- the whole -------------------------------------------------------------------------------


def test_a_miniature_passes_the_checks() -> None:
    assert check_backbone(open_gates(miniature())) == []


def test_a_change_in_the_image_stays_in_its_place_in_every_map() -> None:
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


GRID = (20, 24)
LEVELS = ((40, 48), GRID, (10, 12))


def farthest(reached: Tensor, size: MapSize, place: tuple[float, float]) -> float:
    """Give the distance, in pixels of a map (h w, C), from a place to what is not nought."""
    rows, columns = reached.abs().sum(-1).view(size).nonzero().unbind(-1)
    y, x = place[0] * size[0] - 0.5, place[1] * size[1] - 0.5
    return float(torch.maximum((rows - y).abs(), (columns - x).abs()).max())


def test_a_token_attends_to_the_pyramid_around_its_place() -> None:
    torch.manual_seed(0)
    inject = Injector(WIDTH, HEADS)
    nn.init.ones_(inject.gain)
    priors = noise(1, sum(h * w for h, w in LEVELS), WIDTH).requires_grad_()
    row, column = 3, 17
    inject(noise(1, 20 * 24, WIDTH), priors, GRID)[0, row * 24 + column].square().sum().backward()
    assert priors.grad is not None
    parts = priors.grad[0].split([h * w for h, w in LEVELS])
    for part, size in zip(parts, LEVELS, strict=True):
        place = ((row + 0.5) / 20, (column + 0.5) / 24)
        assert 3 < farthest(part, size, place) <= 5  # the ring ends at 4 pixels


@pytest.mark.parametrize("level", [0, 2])
def test_a_pixel_of_the_pyramid_attends_to_the_tokens_around_its_place(level: int) -> None:
    torch.manual_seed(0)
    extract = Extractor(WIDTH, HEADS, drop_path=0.0)
    height, width = LEVELS[level]
    tokens = noise(1, 20 * 24, WIDTH).requires_grad_()
    priors = noise(1, sum(h * w for h, w in LEVELS), WIDTH)
    row, column = height // 4, 3 * width // 4
    first = sum(h * w for h, w in LEVELS[:level])
    extract(priors, tokens, GRID)[0, first + row * width + column].square().sum().backward()
    assert tokens.grad is not None
    place = ((row + 0.5) / height, (column + 0.5) / width)
    step = 20 / height  # tokens to the next pixel, which the 3x3 convolution mixes in
    assert 3 < farthest(tokens.grad[0], GRID, place) <= 5 + step


def test_drop_path_acts_in_training_alone() -> None:
    images = noise(4, 3, 64, 64)

    def differs(model: ViTAdapter) -> bool:
        with torch.no_grad():
            return not torch.equal(model(images)[0], model(images)[0])

    assert not differs(miniature(drop_path=0.5).eval())
    assert differs(miniature(drop_path=0.5).train())
    assert not differs(miniature(drop_path=0.0).train())
    drops = [block.get_submodule("drop_path") for block in miniature(0.35).vit.blocks]
    rates = [getattr(each, "drop_prob", None) for each in drops]
    assert rates == pytest.approx([0.05 * i for i in range(DEPTH)])


def test_drop_path_of_1_leaves_the_residual_path() -> None:
    tokens, priors = noise(2, 24, WIDTH), noise(2, 126, WIDTH)
    block = Block(WIDTH, HEADS, drop_path=1.0).train()
    assert torch.equal(block(tokens), tokens)
    assert not torch.equal(block.eval()(tokens), tokens)
    extract = Extractor(WIDTH, HEADS, drop_path=1.0).train()
    attended = extract(priors, tokens, (4, 6))
    assert not torch.equal(attended, priors)
    nn.init.ones_(extract.feed.widen.bias)
    assert torch.equal(extract(priors, tokens, (4, 6)), attended)


def test_every_weight_gets_a_gradient() -> None:
    model = open_gates(miniature())
    for module in model.modules():
        if isinstance(module, DeformableAttention):  # initially independent of its queries
            nn.init.normal_(module.offsets.weight)
            nn.init.normal_(module.weights.weight)
    torch.stack([each.square().mean() for each in model(noise(2, 3, 64, 64))]).sum().backward()
    idle = [
        name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()
    ]
    assert idle == []


def test_layers_are_the_patches_the_blocks_and_the_adapter() -> None:
    model = miniature()
    names = {id(each): name for name, each in model.named_parameters()}
    groups = [[names[id(each)] for each in group] for group in model.layers()]
    assert len(groups) == DEPTH + 2
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    assert set(groups[0]) == {"vit.patch_embed.weight", "vit.patch_embed.bias", "vit.pos_embed"}
    for number, group in enumerate(groups[1:-1]):
        assert all(name.startswith(f"vit.blocks.{number}.") for name in group)
    assert not any(name.startswith("vit.") for name in groups[-1])


# ---- weights ---------------------------------------------------------------------------------


def test_a_plain_vit_fills_the_trunk_alone() -> None:
    model = miniature()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    released = timm_vit(init_values=0.1)
    model.load(convert(released.state_dict(), model))
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in changed} == {"vit"}
    for name in ("patch_embed.weight", "blocks.3.attn.qkv.weight", "pos_embed"):
        weight = released.state_dict()[name.replace("embed.w", "embed.proj.w")]
        assert torch.equal(after[f"vit.{name}"], weight)
    assert torch.equal(after["vit.blocks.7.ls2"], torch.full((WIDTH,), 0.1))


def test_weights_of_an_adapter_are_loaded_unchanged() -> None:
    trained, fresh, images = open_gates(miniature()), miniature(grid=3), noise(1, 3, 64, 64)
    assert not torch.allclose(fresh(images)[1], trained(images)[1])
    fresh.load(convert(trained.state_dict(), fresh))
    assert torch.equal(fresh(images)[1], trained(images)[1])


def test_missing_and_unknown_weights_are_refused() -> None:
    model = miniature()
    for state, name, problem in (
        (model.state_dict(), "injectors.0.gain", "injectors.0.gain"),
        (timm_vit().state_dict(), "patch_embed.proj.bias", "patch_embed.bias"),
        (timm_vit(reg_tokens=1).state_dict(), "", "reg_token"),
    ):
        state.pop(name, None)
        with pytest.raises(RuntimeError, match=problem):
            model.load(convert(state, model))


def test_position_embeddings_keep_their_grid() -> None:
    model = miniature(grid=6)
    state = timm_vit().state_dict()
    model.load(convert(state, model))
    assert torch.equal(model.vit.pos_embed, state["pos_embed"])
    assert model.vit.pos_embed.requires_grad
    assert check_backbone(model, sizes=[(64, 96)]) == []


def test_the_names_and_shapes_of_the_original_release_fit() -> None:
    for name, released in (
        ("vit-adapter-b", "deit_base_patch16_224"),
        ("vit-adapter-l", "vit_large_patch16_384"),
    ):
        with torch.device("meta"):
            model = registry.get("backbones", name).build()
            state = timm.create_model(released).state_dict()
        shapes = {key: weight.shape for key, weight in convert(state, model).items()}
        assert shapes == {key: weight.shape for key, weight in model.state_dict().items()}
