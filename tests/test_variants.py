"""Variants of the CMD network: parameter counts, features, training and extractors."""

from __future__ import annotations

import itertools

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
VARIANTS = list(itertools.product(ARCHITECTURES, SPACES))
NETWORKS = [
    ("convnext", "pixel"),
    ("dit", "pixel"),
    ("dit", "latent"),
    ("attention-unet", "latent"),
]
T = torch.tensor([50, 700])


@torch.no_grad()
def _trained(network: nn.Module) -> None:
    """Change every weight, so that no gate or weight is zero."""
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
    return sum(weight.numel() for weight in network.parameters())


# ---- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "space", "parameters"),
    [
        ("convnext", "pixel", 130_754_819),  # the paper's 130.75 M
        ("convnext", "latent", 130_759_428),
        ("dit", "pixel", 132_068_352),
        ("dit", "latent", 130_912_528),  # the paper's ~131 M
        ("attention-unet", "pixel", 132_734_403),  # 132.65 M in the paper, of an unknown variant
        ("attention-unet", "latent", 132_737_860),
    ],
)
def test_the_variants_of_cmd_b_have_about_equal_counts(
    arch: str, space: str, parameters: int
) -> None:
    options = {"arch": arch, "space": space, "cond_dim": "1024"}
    assert describe("cmd-b", options).parameters == parameters


def test_the_parameters_of_a_dit_follow_its_description() -> None:
    c, d, depth, patch_values = 768, 1024, 12, 2 * 2 * 4
    block = 4 * c * c + 4 * c + 8 * c * c + 5 * c + 6 * c * c + 6 * c  # attention, MLP, modulation
    embeddings = (256 * c + c) + (d * c + c) + 2 * (c * c + c) + (patch_values * c + c)
    final = 2 * c * c + 2 * c + c * patch_values + patch_values
    with torch.device("meta"):
        assert _count(DiT(c, depth, d, 4)) == depth * block + embeddings + final


def test_latents_add_one_input_and_output_channel_to_a_unet() -> None:
    for arch, width in (("convnext", MINIATURE.cmd), ("attention-unet", MINIATURE.unet)):
        images, latents = (
            _count(Variant(MINIATURE, arch, space).network(None)) for space in SPACES
        )
        assert latents - images == 9 * width + 9 * width + 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", ["cmd-tiny", "cmd-b"])
def test_architectures_are_built_on_the_meta_device_with_most_weights_in_lists(
    name: str, arch: str
) -> None:
    record = registry.get("backbones", name)
    for space, shape in SPACES.items():
        with torch.device("meta"):
            network = record.network(cond_dim=None, arch=arch, space=space)
        assert all(weight.is_meta for weight in network.parameters())
        assert 0.8 < _count(network) / record.params < 1.1
        assert network.in_channels == shape.channels
        lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]  # are sharded
        assert sum(map(_count, lists)) > 0.9 * _count(network)


# ---- the contract of every network -----------------------------------------------------------


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_the_prediction_starts_at_zero_and_depends_on_time_and_condition(
    arch: str, space: str
) -> None:
    untrained, condition = Variant(MINIATURE, arch, space).network(5), torch.randn(2, 5)
    x = _x(untrained)
    assert not untrained(x, T, condition).any()
    network = _network(arch, space, cond_dim=5)
    result = network(x, T, condition)
    assert result.shape == x.shape
    assert not torch.allclose(result, network(x, T - 49, condition))
    assert not torch.allclose(result, network(x, T, condition + 1))
    # Images of a batch do not mix.
    one = network(x[1:], T[1:], condition[1:])
    torch.testing.assert_close(result[1:], one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_features_have_the_declared_shapes_and_the_default_blocks_exist(
    arch: str, space: str
) -> None:
    network = _network(arch, space)
    x = _x(network)
    every = range(len(network.channels))
    assert [tuple(level.shape) for level in network.features(x, T, None, every)] == [
        (2, c, 32 // s, 64 // s) for c, s in zip(network.channels, network.strides, strict=True)
    ]
    assert set(network.default_blocks) <= set(every)
    assert network.default_blocks[-1] == every[-1]
    assert max(network.strides) <= network.multiple


def test_the_default_blocks_have_all_resolutions_or_are_evenly_spaced() -> None:
    for arch in ("convnext", "attention-unet"):
        network = _network(arch, "pixel")
        strides = {network.strides[block] for block in network.default_blocks}
        assert strides == {1, 2, 4, 8, 16}  # the coarsest has 32
    assert DiT(4, 12).default_blocks == (2, 5, 8, 11)
    assert DiT(4, 24).default_blocks == (5, 11, 17, 23)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_features_stop_after_the_last_requested_block_and_are_in_the_requested_order(
    arch: str,
) -> None:
    network = _network(arch, "latent")
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = _x(network)
    one, zero = network.features(x, T, None, (1, 0))
    blocks = "blocks" if arch == "dit" else "decoder"
    assert f"{blocks}.1" in ran
    assert not {f"{blocks}.2", "ups.2", "final", "exit", "tail"} & set(ran)
    every = network.features(x, T, None, range(len(network.channels)))
    assert torch.equal(one, every[1])
    assert torch.equal(zero, every[0])


@pytest.mark.parametrize(("arch", "space"), NETWORKS)
def test_every_parameter_learns_once_the_gates_are_open(arch: str, space: str) -> None:
    network = _network(arch, space, cond_dim=5)
    x = _x(network)
    network(x, T, torch.randn(2, 5)).sub(x).abs().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


# ---- parts, against independent implementations ----------------------------------------------


def test_the_attention_of_a_dit_equals_multi_head_attention_of_torch() -> None:
    width = 128
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


def test_the_attention_of_a_unet_is_equivariant_to_transposition() -> None:
    attention = PixelAttention(64)
    _trained(attention)
    x = torch.randn(1, 64, 4, 6)
    transposed = attention(x.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(attention(x), transposed, rtol=1e-4, atol=1e-5)


def test_positions_are_unique_and_do_not_depend_on_the_size_of_the_grid() -> None:
    small = positions(3, 5, 16, torch.device("cpu")).view(3, 5, 16)
    large = positions(6, 9, 16, torch.device("cpu")).view(6, 9, 16)
    assert torch.equal(large[:3, :5], small)
    assert len({tuple(row.tolist()) for row in large.reshape(-1, 16)}) == 54
    torch.testing.assert_close(small[2, 3, :4], (3 * 10_000 ** (-torch.arange(4) / 4)).sin())
    torch.testing.assert_close(small[2, 3, 12:], (2 * 10_000 ** (-torch.arange(4) / 4)).cos())


def test_a_dit_puts_the_values_of_a_patch_at_its_position() -> None:
    network = _network("dit", "latent")
    network.blocks = nn.ModuleList()  # without blocks, a patch depends on itself only
    x = _x(network, 8, 8)
    changed = x.clone()
    changed[:, :, 2:4, 4:6] += 1
    differs = (network(x, T) != network(changed, T)).any(dim=1)[0]
    assert differs[2:4, 4:6].all()
    assert int(differs.sum()) == 4


@pytest.mark.parametrize("width", [48, 384])
def test_every_normalisation_of_a_unet_has_groups_of_more_than_one_channel(width: int) -> None:
    with torch.device("meta"):
        norms = [m for m in AttentionUNet(width).modules() if isinstance(m, nn.GroupNorm)]
    assert all(norm.num_channels // norm.num_groups > 1 for norm in norms)
    assert {norm.num_groups for norm in norms} <= {16, 32}


# ---- errors ----------------------------------------------------------------------------------


def test_an_input_that_does_not_fit_raises() -> None:
    dit = _network("dit", "latent")
    with pytest.raises(BenchError, match="divisible by 2, got 7 x 8"):
        dit(torch.zeros(2, 4, 7, 8), T)
    with pytest.raises(BenchError, match="takes 4 channels, got 3"):
        dit(torch.zeros(2, 3, 8, 8), T)
    with pytest.raises(BenchError, match="takes a condition: none; got one of width 4"):
        dit(torch.zeros(2, 4, 8, 8), T, torch.zeros(2, 4))
    with pytest.raises(BenchError, match="divisible by 32, got 48 x 64"):
        _network("attention-unet", "pixel")(torch.zeros(2, 3, 48, 64), T)


def test_a_condition_without_width_raises() -> None:
    for build in (lambda: DiT(4, 4, 0), lambda: AttentionUNet(32, 0)):
        with pytest.raises(BenchError, match="cond_dim 0"):
            build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "dti"}, "arch 'dti' is not one of convnext, dit, attention-unet"),
        ({"space": "latents"}, "space 'latents' is not one of pixel, latent"),
        ({"arch": "dit", "blocks": "12"}, r"in 0 \.\. 11; the default is 2,5,8,11"),
        ({"vae": "random"}, "vae 'random' applies to latent space only"),
    ],
)
def test_invalid_options_raise(options: dict[str, str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        open_backbone("cmd-tiny@random", options=options)


# ---- the extractor ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["dit", "attention-unet"])
def test_a_variant_fulfils_the_contract_of_a_backbone(arch: str) -> None:
    extractor = CMDExtractor(Variant(MINIATURE, arch), FeatureOptions())
    _trained(extractor.network)
    assert check_backbone(extractor) == []


def test_a_variant_is_opened_and_recorded_by_its_options() -> None:
    opened = open_backbone("cmd-tiny@random", options={"arch": "dit", "timestep": "7"})
    images = torch.rand(2, 3, 48, 40)  # 40: padded to 48, cut to two tokens
    maps = opened.extractor(images)
    assert [tuple(level.shape) for level in maps] == [(2, 192, 3, 2)] * 4
    assert opened.options["blocks"] == [11, 8, 5, 2]
    expected = {"arch": "dit", "space": "pixel", "vae": "none", "timestep": 7}
    assert opened.options.items() >= expected.items()


def test_blocks_are_the_defaults_of_the_architecture_unless_set() -> None:
    default = describe("cmd-s").facts["blocks"]
    assert default == [9, 8, 6, 5, 3, 1]
    assert describe("cmd-s", {"blocks": "none"}).facts["blocks"] == default
    assert describe("cmd-s", {"blocks": "1,3"}).facts["blocks"] == [3, 1]
    assert describe("cmd-s", {"arch": "attention-unet"}).facts["blocks"] == [11, 9, 7, 5, 3]
    assert describe("cmd-tiny").facts["blocks"] == [9, 8, 6]
    assert describe("cmd-tiny", {"arch": "dit"}).facts["blocks"] == [11, 8, 5, 2]


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


def test_latent_variants_are_described_without_a_vae() -> None:
    result = describe("cmd-b", {"space": "latent", "vae": "/nowhere/at-all", "cond_dim": "1024"})
    assert result.parameters == 130_759_428
    assert result.strides == (8, 16, 32, 32, 64, 128)
    assert result.facts["vae"] == "at-all"
    assert describe("cmd-b", {"space": "latent", "arch": "dit"}).strides == (16,) * 4


# ---- weights of another variant --------------------------------------------------------------


def test_weights_of_another_variant_raise_with_the_options_they_need() -> None:
    variants = [Variant(MINIATURE, arch, space) for arch, space in VARIANTS]
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
def test_weights_of_another_size_or_condition_raise(arch: str) -> None:
    with torch.device("meta"):
        state = Variant(SIZES["cmd-s"], arch).network(768).state_dict()
    with pytest.raises(BenchError, match=r"\(cmd-s\), not .*\(cmd-l\): use --backbone cmd-s"):
        Variant(SIZES["cmd-l"], arch).check_weights(state, 768)
    with pytest.raises(BenchError, match=r"condition of width 768, .* built for none"):
        Variant(SIZES["cmd-s"], arch).check_weights(state, None)
    without = {name: weight for name, weight in state.items() if "feature" not in name}
    with pytest.raises(BenchError, match="leave --condition out"):
        Variant(SIZES["cmd-s"], arch).check_weights(without, 768)


def test_a_network_without_options_is_the_cmd() -> None:
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    assert isinstance(network, CMD)
    assert network.in_channels == 3
