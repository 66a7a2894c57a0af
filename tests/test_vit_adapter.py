"""ViT-Adapter: deformable attention by its definition, the trunk by timm's, the whole by counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench import registry
from bench.backbones import _deformable
from bench.backbones._deformable import DeformableAttention, Size, centres, ring, sample
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


# ---- deformable attention --------------------------------------------------------------------


def at_a_place(level: Tensor, x: float, y: float) -> Tensor:
    """Interpolate a map (h, w, D) at x and y in pixels, 0 the centre of the first; nought outside.

    Written from the definition of bilinear interpolation.
    """
    found = torch.zeros(level.shape[-1], dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < level.shape[0] and 0 <= column < level.shape[1]:
                found += (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return found


def slowly(values: Tensor, sizes: list[Size], places: Tensor, weights: Tensor) -> Tensor:
    images, queries, heads, _, points = weights.shape
    parts = values.split([height * width for height, width in sizes], dim=1)
    seen = torch.zeros(images, queries, heads, values.shape[-1], dtype=values.dtype)
    for n, q, m, p in torch.cartesian_prod(*map(torch.arange, (images, queries, heads, points))):
        for level, (part, (height, width)) in enumerate(zip(parts, sizes, strict=True)):
            x, y = places[n, q, m, level, p].tolist()
            level_map = part[n, :, m].reshape(height, width, -1)
            value = at_a_place(level_map, x * width - 0.5, y * height - 0.5)
            seen[n, q, m] += weights[n, q, m, level, p] * value
    return seen.flatten(2)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3),
    points=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_sampling_does_what_the_definition_says_also_outside_of_the_maps(
    sizes: list[Size], points: int, seed: int
) -> None:
    torch.manual_seed(seed)
    count = sum(height * width for height, width in sizes)
    values = torch.randn(2, count, 2, 3, dtype=torch.float64)
    places = torch.empty(2, 3, 2, len(sizes), points, 2, dtype=torch.float64).uniform_(-0.6, 1.6)
    weights = torch.randn(2, 3, 2, len(sizes), points, dtype=torch.float64)
    wanted = slowly(values, sizes, places, weights)
    torch.testing.assert_close(sample(values, sizes, places, weights), wanted)


def test_the_layer_looks_where_its_queries_say_and_weighs_over_all_maps_and_points() -> None:
    torch.manual_seed(0)
    sizes = [(4, 6), (2, 3)]
    layer = DeformableAttention(8, 2, maps=2, points=3).double()
    for part in (layer.offsets, layer.weights):
        nn.init.normal_(part.weight)
    queries, values = torch.randn(2, 5, 8).double(), torch.randn(2, 30, 8).double()
    at = torch.rand(5, 2).double()
    places = torch.empty(2, 5, 2, 2, 3, 2).double()
    for level, (height, width) in enumerate(sizes):
        shift = layer.offsets(queries).view(2, 5, 2, 2, 3, 2)[:, :, :, level]
        across = torch.tensor([width, height]).double()
        places[:, :, :, level] = at.view(1, 5, 1, 1, 2) + shift / across
    weights = layer.weights(queries).view(2, 5, 2, 6).exp()
    weights = (weights / weights.sum(-1, keepdim=True)).view(2, 5, 2, 2, 3)
    seen = slowly(layer.value(values).view(2, 30, 2, 2), sizes, places, weights)
    torch.testing.assert_close(layer(queries, at, values, sizes), layer.output(seen))


def test_gradients_of_sampling_are_those_of_small_differences() -> None:
    torch.manual_seed(0)
    sizes = [(2, 3), (1, 2)]
    values = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    places = torch.empty(1, 2, 2, 2, 2, 2, dtype=torch.float64).uniform_(-0.1, 1.1).requires_grad_()
    weights = torch.randn(1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: sample(given[0], sizes, *given[1:]), (values, places, weights)
    )


def test_at_first_every_query_looks_at_the_same_ring_and_weighs_all_points_alike() -> None:
    layer = DeformableAttention(16, 4, maps=2, points=3)
    queries = noise(1, 7, 16)
    offsets = layer.offsets(queries).view(1, 7, 4, 2, 3, 2)
    assert torch.equal(offsets, ring(4, 2, 3).expand_as(offsets))
    right, down, left, up = ring(4, 2, 3)[:, 0]
    for direction, (x, y) in ((right, (1, 0)), (down, (0, 1)), (left, (-1, 0)), (up, (0, -1))):
        wanted = torch.tensor([[n * x, n * y] for n in (1, 2, 3)]).float()
        torch.testing.assert_close(direction, wanted, atol=1e-6, rtol=0)
    assert not layer.weights(queries).any()


def test_pixels_are_told_by_their_centres_row_by_row() -> None:
    told = centres([(1, 2), (2, 1)], torch.device("cpu"))
    assert told.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


def test_a_flat_map_is_seen_as_it_is_wherever_the_points_lie_within() -> None:
    places = torch.empty(1, 4, 1, 2, 3, 2).uniform_(0.25, 0.75)
    weights = torch.full((1, 4, 1, 2, 3), 1 / 6)
    seen = sample(torch.full((1, 32, 1, 5), 7.0), [(4, 4), (4, 4)], places, weights)
    torch.testing.assert_close(seen, torch.full((1, 4, 5), 7.0))


class Largest(TorchDispatchMode):
    """Remember how many numbers the largest new tensor had."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        if isinstance(given, Tensor):
            self.numbers = max(self.numbers, given.numel())
        return given


def test_the_points_of_all_maps_are_never_held_at_once() -> None:
    sizes, queries, heads, points, channels = [(8, 8)] * 3, 64, 2, 4, 8
    places = noise(1, queries, heads, 3, points, 2)
    weights = noise(1, queries, heads, 3, points)
    with Largest() as largest:
        sample(noise(1, 192, heads, channels), sizes, places, weights)
    assert largest.numbers <= queries * heads * points * channels


def test_inside_autocast_places_and_weights_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []

    def watched(values: Tensor, sizes: Any, places: Tensor, weights: Tensor) -> Tensor:
        kinds.extend(each.dtype for each in (values, places, weights))
        return sample(values, sizes, places, weights)

    monkeypatch.setattr(_deformable, "sample", watched)
    layer = DeformableAttention(16, 4, maps=1)
    with torch.autocast("cpu", torch.bfloat16):
        seen = layer(noise(1, 3, 16).bfloat16(), noise(3, 2), noise(1, 4, 16), [(2, 2)])
    assert kinds == [torch.float32] * 3
    assert seen.dtype == torch.bfloat16


# ---- the trunk -------------------------------------------------------------------------------


def timm_vit(**options: Any) -> VisionTransformer:
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
    assert torch.equal(after["vit.blocks.3.attn.qkv.weight"], released.blocks[3].attn.qkv.weight)
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
