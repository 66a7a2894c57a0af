"""Variants of the CMD network: parameter counts, features, training and extractors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.backbones.cmd.attention_unet import Attention as PixelAttention
from bench.backbones.cmd.attention_unet import AttentionUNet
from bench.backbones.cmd.diffusion import DiffusionNetwork
from bench.backbones.cmd.dit import Attention, DiT, positions
from bench.backbones.cmd.extractor import CMDExtractor, FeatureOptions
from bench.backbones.cmd.network import CMD
from bench.backbones.cmd.variants import ARCHITECTURES, SIZES, SPACES, Size, Variant
from bench.errors import BenchError
from bench.models.load import describe, open_backbone
from bench.testing import check_backbone

MINIATURE = Size("miniature", cmd=16, dit=(16, 4), unet=32)
ARMS = list(itertools.product(ARCHITECTURES, SPACES))
NETWORKS = [
    ("convnext", "pixel"),
    ("dit", "pixel"),
    ("dit", "latent"),
    ("attention-unet", "latent"),
]
T = torch.tensor([50, 700])


@torch.no_grad()
def _trained(network: nn.Module) -> None:
    """Move every weight away from where it starts, so that gates are open and nothing is zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)


def _network(arch: str, space: str, cond_dim: int | None = None) -> DiffusionNetwork:
    torch.manual_seed(0)
    network = Variant(MINIATURE, arch, space).network(cond_dim)
    _trained(network)
    return network


def _x(network: DiffusionNetwork, height: int = 32, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, network.in_channels, height, width, generator=generator)


def _count(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


# ---- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "space", "parameters"),
    [
        ("convnext", "pixel", 130_754_819),  # the paper's 130.75 M
        ("convnext", "latent", 130_759_428),
        ("dit", "pixel", 132_068_352),
        ("dit", "latent", 130_912_528),  # the paper's ~131 M
        ("attention-unet", "pixel", 132_734_403),  # the paper's 132.65 M is of a form not known
        ("attention-unet", "latent", 132_737_860),
    ],
)
def test_the_arms_of_cmd_b_with_a_condition_of_1024_have_about_equal_counts(
    arch: str, space: str, parameters: int
) -> None:
    options = {"arch": arch, "space": space, "cond_dim": "1024"}
    assert describe("cmd-b", options).parameters == parameters


def test_a_dit_has_the_parameters_that_its_description_says() -> None:
    c, d, depth, patch_values = 768, 1024, 12, 2 * 2 * 4
    block = 4 * c * c + 4 * c + 8 * c * c + 5 * c + 6 * c * c + 6 * c  # attention, MLP, modulation
    embeddings = (256 * c + c) + (d * c + c) + 2 * (c * c + c) + (patch_values * c + c)
    final = 2 * c * c + 2 * c + c * patch_values + patch_values
    with torch.device("meta"):
        assert _count(DiT(c, depth, d, 4)) == depth * block + embeddings + final


def test_latents_add_to_a_unet_what_one_more_channel_in_and_out_takes() -> None:
    for arch, width in (("convnext", MINIATURE.cmd), ("attention-unet", MINIATURE.unet)):
        images, latents = (
            _count(Variant(MINIATURE, arch, space).network(None)) for space in SPACES
        )
        assert latents - images == 9 * width + 9 * width + 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", ["cmd-tiny", "cmd-b"])
def test_every_architecture_is_built_on_the_meta_device(name: str, arch: str) -> None:
    record = registry.get("backbones", name)
    with torch.device("meta"):
        made = {space: record.network(cond_dim=None, arch=arch, space=space) for space in SPACES}
    for space, network in made.items():
        assert all(each.is_meta for each in network.parameters())
        assert 0.8 < _count(network) / record.params < 1.1
        assert network.in_channels == SPACES[space].channels


# ---- the contract of every network -----------------------------------------------------------


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_an_untrained_network_predicts_zero(arch: str, space: str) -> None:
    network = Variant(MINIATURE, arch, space).network(5)
    assert not network(_x(network), T, torch.randn(2, 5)).any()


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_the_prediction_has_the_shape_of_x_and_depends_on_time_and_condition(
    arch: str, space: str
) -> None:
    network, condition = _network(arch, space, cond_dim=5), torch.randn(2, 5)
    x = _x(network)
    told = network(x, T, condition)
    assert told.shape == x.shape
    assert not torch.allclose(told, network(x, T - 49, condition))
    assert not torch.allclose(told, network(x, T, condition + 1))


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_features_have_the_promised_shapes_and_the_usual_blocks_exist(
    arch: str, space: str
) -> None:
    network = _network(arch, space)
    x = _x(network)
    every = range(len(network.channels))
    assert [tuple(each.shape) for each in network.features(x, T, None, every)] == [
        (2, c, 32 // s, 64 // s) for c, s in zip(network.channels, network.strides, strict=True)
    ]
    assert set(network.default_blocks) <= set(every)
    assert network.default_blocks[-1] == every[-1]
    assert max(network.strides) <= network.multiple


@pytest.mark.parametrize("arch", ["convnext", "attention-unet"])
def test_the_usual_blocks_of_a_unet_have_each_resolution_from_a_sixteenth_up(arch: str) -> None:
    network = _network(arch, "pixel")
    assert {network.strides[each] for each in network.default_blocks} == {1, 2, 4, 8, 16}


@pytest.mark.parametrize(("depth", "blocks"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23))])
def test_the_usual_blocks_of_a_dit_are_four_evenly_spaced(
    depth: int, blocks: tuple[int, ...]
) -> None:
    assert DiT(4, depth).default_blocks == blocks


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_features_come_in_the_order_asked_and_the_last_gives_the_prediction(
    arch: str, space: str
) -> None:
    network = _network(arch, space)
    x = _x(network, 32, 32)
    every = network.features(x, T, None, range(len(network.channels)))
    last = len(every) - 1
    some = network.features(x, T, None, (last, 1))
    assert torch.equal(some[0], every[last])
    assert torch.equal(some[1], every[1])


@pytest.mark.parametrize("arch", ["dit", "attention-unet"])
def test_features_compute_nothing_after_the_last_block_wanted(arch: str) -> None:
    network = _network(arch, "latent")
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    network.features(_x(network), T, None, (0, 1))
    blocks = {"dit": "blocks", "attention-unet": "decoder"}[arch]
    assert f"{blocks}.1" in ran
    assert not {f"{blocks}.2", "ups.0", "final", "exit"} & set(ran)


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_every_parameter_learns_once_the_gates_are_open(arch: str, space: str) -> None:
    network = _network(arch, space, cond_dim=5)
    x = _x(network)
    network(x, T, torch.randn(2, 5)).sub(x).abs().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_the_repeated_blocks_of_a_network_lie_in_lists_and_hold_most_of_it(
    arch: str, space: str
) -> None:
    with torch.device("meta"):
        network = Variant(SIZES["cmd-b"], arch, space).network(1024)
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    assert sum(map(_count, lists)) > 0.9 * _count(network)


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_images_of_a_batch_do_not_mix(arch: str, space: str) -> None:
    network = _network(arch, space)
    x = _x(network)
    torch.testing.assert_close(network(x, T)[1:], network(x[1:], T[1:]), rtol=1e-3, atol=1e-3)


# ---- parts, against independent forms --------------------------------------------------------


@pytest.mark.parametrize("width", [128])
def test_the_attention_of_a_dit_is_torchs_multi_head_attention(width: int) -> None:
    attention = Attention(width)
    _trained(attention)
    other = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    renamed = {
        "in_proj_weight": attention.qkv.weight,
        "in_proj_bias": attention.qkv.bias,
        "out_proj.weight": attention.out.weight,
        "out_proj.bias": attention.out.bias,
    }
    other.load_state_dict(renamed)
    x = torch.randn(2, 6, width)
    torch.testing.assert_close(attention(x), other(x, x, x)[0], rtol=1e-4, atol=1e-5)


def test_the_attention_of_a_unet_treats_all_pixels_alike() -> None:
    attention = PixelAttention(64)
    _trained(attention)
    x = torch.randn(1, 64, 4, 6)
    turned = attention(x.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(attention(x), turned, rtol=1e-4, atol=1e-5)


def test_a_place_has_one_position_whatever_the_grid_and_no_two_places_share_one() -> None:
    small = positions(3, 5, 16, torch.device("cpu")).view(3, 5, 16)
    large = positions(6, 9, 16, torch.device("cpu")).view(6, 9, 16)
    assert torch.equal(large[:3, :5], small)
    assert len({tuple(each.tolist()) for each in large.reshape(-1, 16)}) == 54
    torch.testing.assert_close(small[2, 3, :4], (3 * 10_000 ** (-torch.arange(4) / 4)).sin())
    torch.testing.assert_close(small[2, 3, 12:], (2 * 10_000 ** (-torch.arange(4) / 4)).cos())


def test_a_dit_puts_the_values_of_a_patch_where_the_patch_was() -> None:
    network = _network("dit", "latent")
    network.blocks = nn.ModuleList()  # tokens do not meet: each patch depends on itself alone
    x = _x(network, 8, 8)
    changed = x.clone()
    changed[:, :, 2:4, 4:6] += 1
    moved = (network(x, T) != network(changed, T)).any(dim=1)[0]
    assert moved[2:4, 4:6].all()
    assert int(moved.sum()) == 4


@pytest.mark.parametrize("width", [48, 384])
def test_every_normalisation_of_a_unet_has_groups_of_more_than_one_channel(width: int) -> None:
    with torch.device("meta"):
        norms = [m for m in AttentionUNet(width).modules() if isinstance(m, nn.GroupNorm)]
    assert all(norm.num_channels // norm.num_groups > 1 for norm in norms)
    assert {norm.num_groups for norm in norms} <= {16, 32}


# ---- refusals --------------------------------------------------------------------------------


def test_an_x_that_does_not_fit_is_refused() -> None:
    dit = _network("dit", "latent")
    with pytest.raises(BenchError, match="divisible by 2, got 7 x 8"):
        dit(torch.zeros(2, 4, 7, 8), T)
    with pytest.raises(BenchError, match="takes 4 channels, got 3"):
        dit(torch.zeros(2, 3, 8, 8), T)
    with pytest.raises(BenchError, match="takes a condition: none; got one of width 4"):
        dit(torch.zeros(2, 4, 8, 8), T, torch.zeros(2, 4))
    with pytest.raises(BenchError, match="divisible by 32, got 48 x 64"):
        _network("attention-unet", "pixel")(torch.zeros(2, 3, 48, 64), T)


@pytest.mark.parametrize("build", [lambda d: DiT(4, 4, d), lambda d: AttentionUNet(32, d)])
def test_a_condition_without_width_is_refused(build: Callable[[int], nn.Module]) -> None:
    with pytest.raises(BenchError, match="cond_dim 0"):
        build(0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"arch": "dti"}, "arch 'dti' is not one of convnext, dit, attention-unet"),
        ({"space": "latents"}, "space 'latents' is not one of pixel, latent"),
        ({"arch": "dit", "blocks": "12"}, r"in 0 \.\. 11; the default is 2,5,8,11"),
        ({"vae": "random"}, "vae 'random' applies to latent space only"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(BenchError, match=told):
        open_backbone("cmd-tiny@random", options=options)


# ---- the extractor ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["dit", "attention-unet"])
def test_an_arm_keeps_the_promises_of_a_backbone(arch: str) -> None:
    extractor = CMDExtractor(Variant(MINIATURE, arch), FeatureOptions())
    _trained(extractor.network)
    assert check_backbone(extractor) == []


def test_an_arm_is_opened_by_its_options_and_says_so() -> None:
    opened = open_backbone("cmd-tiny@random", options={"arch": "dit", "timestep": "7"})
    images = torch.rand(2, 3, 48, 40)  # 40: padded to 48, cut to two tokens
    maps = opened.extractor(images)
    assert [tuple(each.shape) for each in maps] == [(2, 192, 3, 2)] * 4
    assert opened.options["blocks"] == [11, 8, 5, 2]
    told = {"arch": "dit", "space": "pixel", "vae": "none", "timestep": 7}
    assert {name: opened.options[name] for name in told} == told


def test_blocks_are_the_architectures_usual_ones_unless_they_are_given() -> None:
    usual = describe("cmd-s").facts["blocks"]
    assert usual == [9, 8, 6, 5, 3, 1]
    assert describe("cmd-s", {"blocks": "none"}).facts["blocks"] == usual
    assert describe("cmd-s", {"blocks": "1,3"}).facts["blocks"] == [3, 1]
    assert describe("cmd-s", {"arch": "attention-unet"}).facts["blocks"] == [11, 9, 7, 5, 3]


def test_cmd_tiny_reads_fewer_blocks_and_its_other_architectures_their_own() -> None:
    assert describe("cmd-tiny").facts["blocks"] == [9, 8, 6]
    assert describe("cmd-tiny", {"blocks": "1,3,5,6,8,9"}).facts["blocks"] == [9, 8, 6, 5, 3, 1]
    assert (
        describe("cmd-tiny", {"arch": "dit"}).facts
        == describe("cmd-tiny", {"arch": "dit", "blocks": "2,5,8,11"}).facts
    )


def test_a_mask_seed_works_with_every_architecture() -> None:
    for arch in ARCHITECTURES:
        variant, images = Variant(MINIATURE, arch), torch.rand(1, 3, 64, 64)
        maps = []
        for seed in (None, 0, 1):
            extractor = CMDExtractor(variant, FeatureOptions(500, None, seed))
            _trained(extractor.network)
            maps.append(extractor(images)[0])
        assert not torch.allclose(maps[0], maps[1])
        assert not torch.allclose(maps[1], maps[2])


def test_latent_arms_are_described_without_a_vae() -> None:
    told = describe("cmd-b", {"space": "latent", "vae": "/nowhere/at-all", "cond_dim": "1024"})
    assert told.parameters == 130_759_428
    assert told.strides == (8, 16, 32, 32, 64, 128)
    assert told.facts["vae"] == "at-all"
    assert describe("cmd-b", {"space": "latent", "arch": "dit"}).strides == (16,) * 4


# ---- weights of another variant --------------------------------------------------------------


def test_weights_of_another_variant_name_the_options_that_they_need() -> None:
    variants = [Variant(MINIATURE, arch, space) for arch, space in ARMS]
    with torch.device("meta"):
        states = [variant.network(None).state_dict() for variant in variants]
    for variant, (other, state) in itertools.product(variants, zip(variants, states, strict=True)):
        options = [f"--option arch={other.arch}"] if other.arch != variant.arch else []
        options += [f"--option space={other.space}"] if other.space != variant.space else []
        if not options:
            variant.check_weights(state, None)
            continue
        with pytest.raises(BenchError, match=f"arch {other.arch} in {other.space} space") as caught:
            variant.check_weights(state, None)
        assert str(caught.value).endswith(f"add {' '.join(options)}.")


@pytest.mark.parametrize("arch", ["dit", "attention-unet"])
def test_weights_of_another_size_or_condition_are_named(arch: str) -> None:
    with torch.device("meta"):
        state = Variant(SIZES["cmd-s"], arch).network(768).state_dict()
    with pytest.raises(BenchError, match=r"\(cmd-s\), not .*\(cmd-l\): use --backbone cmd-s"):
        Variant(SIZES["cmd-l"], arch).check_weights(state, 768)
    with pytest.raises(BenchError, match=r"condition of width 768, .* built for none"):
        Variant(SIZES["cmd-s"], arch).check_weights(state, None)
    without = {name: each for name, each in state.items() if "feature" not in name}
    with pytest.raises(BenchError, match="leave --condition out"):
        Variant(SIZES["cmd-s"], arch).check_weights(without, 768)


def test_weights_of_something_else_are_left_to_the_strict_loading() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        CMDExtractor(Variant(MINIATURE), FeatureOptions()).load({"conv.weight": torch.zeros(1)})


def test_a_network_without_options_is_the_cmd_that_it_always_was() -> None:
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    assert isinstance(network, CMD)
    assert network.in_channels == 3
