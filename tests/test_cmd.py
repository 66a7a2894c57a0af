"""The CMD network, counted and compared with plain forms, and CMD as an extractor."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from bench import registry
from bench.backbones.cmd.diffusion import time_waves
from bench.backbones.cmd.extractor import CMDExtractor, FeatureOptions
from bench.backbones.cmd.network import CMD, Block
from bench.backbones.cmd.variants import Size, Variant
from bench.errors import BenchError
from bench.models.checkpoints import sha256_of
from bench.models.load import describe, open_backbone
from bench.pretrain.objective import Masked

WIDTH = 16  # a miniature: what is tested does not depend on the width
VARIANT = Variant(Size("miniature", WIDTH, dit=(16, 4), unet=32))


@torch.no_grad()
def _trained(network: torch.nn.Module, seed: int = 0) -> None:
    """Move every weight away from where it starts, so that gates are open and nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)


def _network(cond_dim: int | None = None) -> CMD:
    torch.manual_seed(0)
    network = CMD(WIDTH, cond_dim)
    _trained(network)
    return network.eval().requires_grad_(False)


def _extractor(features: FeatureOptions = FeatureOptions(), **options: object) -> CMDExtractor:  # noqa: B008
    torch.manual_seed(0)
    extractor = CMDExtractor(VARIANT, features, **options)  # type: ignore[arg-type]
    _trained(extractor.network)
    return extractor


def _images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


# ---- the network -----------------------------------------------------------------------------


def test_the_parameter_counts_are_those_of_the_paper() -> None:
    for name, cond_dim, parameters in (
        ("cmd-b", 1024, 130_754_819),
        ("cmd-l", 1024, 516_706_819),
        ("cmd-b", 768, 130_296_067),
        ("cmd-l", 768, 515_789_315),
    ):
        assert describe(name, {"cond_dim": str(cond_dim)}).parameters == parameters
    conditioned = describe("cmd-l", {"condition": "dinov2-l"})
    assert conditioned.parameters == 516_706_819 + 304_367_616
    for name in ("cmd-tiny", "cmd-s", "cmd-b", "cmd-l"):
        plain = describe(name)
        assert plain.parameters == registry.get("backbones", name).params
        assert plain.trainable_parameters == 0
    assert plain.channels == (512, 512, 512, 512, 1024, 1024)  # of cmd-l: 4096 in the paper
    assert plain.strides == (1, 2, 4, 4, 8, 16)


def test_a_block_equals_its_plain_channels_first_form() -> None:
    torch.manual_seed(1)
    block = Block(8)
    _trained(block)
    x, c = torch.randn(2, 8, 12, 10), torch.randn(2, 8)
    shift, scale, gate = block.modulation(c * c.sigmoid())[..., None, None].chunk(3, dim=1)
    y = block.depthwise(x)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    y = F.conv2d(y * (1 + scale) + shift, block.expand.weight[..., None, None], block.expand.bias)
    y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    energy = y.square().sum((2, 3), keepdim=True).sqrt()
    scaled = y * energy / (energy.mean(1, keepdim=True) + 1e-6)
    gamma, beta = (p[None, :, None, None] for p in (block.response.gamma, block.response.beta))
    y = gamma * scaled + beta + y
    y = F.conv2d(y, block.contract.weight[..., None, None], block.contract.bias)
    torch.testing.assert_close(block(x, c), x + gate * y, rtol=1e-4, atol=1e-5)


def test_the_blocks_of_an_untrained_network_are_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, WIDTH, 8, 8)
    assert torch.equal(CMD(WIDTH).encoder[0](x, torch.randn(1, WIDTH)), x)


def test_time_is_embedded_cosines_first_with_a_longest_period_of_10_000() -> None:
    waves = time_waves(torch.tensor([1, 50]))
    assert waves.shape == (2, 256)
    torch.testing.assert_close(waves[:, 0], torch.tensor([1.0, 50.0]).cos())
    torch.testing.assert_close(waves[:, 128], torch.tensor([1.0, 50.0]).sin())
    slowest = 10_000 ** (-127 / 128)
    torch.testing.assert_close(waves[1, 255], torch.tensor(50 * slowest).sin())


def test_invalid_inputs_are_refused() -> None:
    images, t = _images(1, 3, 32, 32), torch.tensor([50])
    with pytest.raises(BenchError, match="takes a condition: one of width 5; got none"):
        _network(cond_dim=5)(images, t)
    with pytest.raises(BenchError, match="takes a condition: none; got one of width 4"):
        _network()(images, t, torch.zeros(1, 4))
    with pytest.raises(BenchError, match="--condition NAME"):
        _extractor(cond_dim=5)(images)
    with pytest.raises(BenchError, match="divisible by 32, got 48 x 64"):
        _network()(_images(1, 3, 48, 64), t)


# ---- the extractor ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_maps_are_finest_first_and_have_the_declared_sizes(size: tuple[int, int]) -> None:
    extractor = _extractor()
    assert not extractor.training
    assert not any(weight.requires_grad for weight in extractor.parameters())
    maps = extractor(_images(2, 3, *size))
    assert extractor.strides == (1, 2, 4, 4, 8, 16)
    assert [tuple(each.shape) for each in maps] == [
        (2, c, size[0] // s, size[1] // s)
        for c, s in zip(extractor.channels, extractor.strides, strict=True)
    ]


def test_the_maps_are_the_networks_features_at_the_time_step() -> None:
    extractor = _extractor(FeatureOptions(timestep=7, blocks=(3, 9)))
    images = _images(2, 3, 32, 32)
    expected = extractor.network.features(2 * images - 1, torch.tensor([7, 7]), None, (9, 3))
    for level, map_expected in zip(extractor(images), expected, strict=True):
        torch.testing.assert_close(level, map_expected)


def test_a_mask_seed_masks_the_same_patches_of_every_image_whatever_its_batch() -> None:
    images = _images(2, 3, 64, 64)
    masked = _extractor(FeatureOptions(timestep=500, blocks=(1,), mask_seed=3))
    (together,) = masked(images)
    (alone,) = masked(images[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)
    for other in (None, 4):
        (level,) = _extractor(FeatureOptions(timestep=500, blocks=(1,), mask_seed=other))(images)
        assert not torch.allclose(level, together)


@pytest.mark.parametrize(
    ("features", "options", "problem"),
    [
        (FeatureOptions(0), {}, r"not in 1 \.\. 1000"),
        (FeatureOptions(1001), {}, r"not in 1 \.\. 1000"),
        (FeatureOptions(blocks=()), {}, "the default is 1,3,5,6,8,9"),
        (FeatureOptions(blocks=(10,)), {}, "the default is 1,3,5,6,8,9"),
        (FeatureOptions(blocks=(3, 3)), {}, "the default is 1,3,5,6,8,9"),
        (FeatureOptions(), {"condition": "rgb", "cond_dim": 768}, "has width 3, not 768"),
    ],
)
def test_invalid_options_are_refused(
    features: FeatureOptions, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BenchError, match=problem):
        CMDExtractor(VARIANT, features, **options)


# ---- the condition ---------------------------------------------------------------------------


def test_the_condition_is_the_embedding_of_the_unmasked_image() -> None:
    extractor = _extractor(FeatureOptions(timestep=500, blocks=(1,), mask_seed=0), condition="rgb")
    seen: list[Tensor] = []
    network_features = extractor.network.features
    extractor.network.features = lambda x, t, c, b: seen.append(c) or network_features(x, t, c, b)  # type: ignore[assignment, func-returns-value]
    images = _images(2, 3, 64, 64)
    extractor(images)
    torch.testing.assert_close(seen[0], (2 * images - 1).mean((2, 3)))


def test_a_condition_of_another_stride_gets_the_resized_image() -> None:
    options = {"condition": "random-vit-s", "blocks": "1"}
    opened = open_backbone("cmd-tiny@random", options=options)
    assert opened.extractor(_images(1, 3, 40, 56))[0].shape == (1, 128, 2, 3)
    assert opened.extractor.network.cond_dim == 384  # type: ignore[union-attr]
    assert opened.options["condition_weights"] == "random:0"
    assert opened.options["condition"] == "random-vit-s"


# ---- checkpoints -----------------------------------------------------------------------------


def test_a_pretrained_network_loads_without_its_condition_backbone() -> None:
    network = _network(cond_dim=3)
    extractor = CMDExtractor(VARIANT, FeatureOptions(), condition="rgb")
    extractor.load(network.state_dict())
    images = _images(1, 3, 32, 32)
    pixels = 2 * images - 1
    expected = network.features(pixels, torch.tensor([50]), pixels.mean((2, 3)), (9,))[0]
    torch.testing.assert_close(extractor(images)[0], expected)


def test_a_checkpoint_of_another_variant_is_refused() -> None:
    plain = CMDExtractor(VARIANT, FeatureOptions())
    with pytest.raises(BenchError, match=r"width 256 \(cmd-b\).*--backbone cmd-b"):
        plain.load({"stem.weight": torch.zeros(256, 3, 3, 3)})
    with pytest.raises(BenchError, match=r"condition of width 5.*--condition NAME"):
        plain.load(_network(cond_dim=5).state_dict())
    with pytest.raises(BenchError, match="leave --condition out"):
        CMDExtractor(VARIANT, FeatureOptions(), condition="rgb").load(_network().state_dict())


# ---- the weights that come with it -----------------------------------------------------------


def test_the_packaged_weights_of_cmd_tiny_match_their_card() -> None:
    folder = Path(str(files("bench.backbones.cmd")))
    card = json.loads((folder / "cmd-tiny.json").read_text())
    path = folder / "cmd-tiny.safetensors"
    assert path.stat().st_size < 20e6
    opened = open_backbone("cmd-tiny")
    assert opened.identity == f"sha256:{card['weights_sha256']}" == f"sha256:{sha256_of(path)}"
    assert not opened.untrained
    assert opened.options["blocks"] == [9, 8, 6]
    assert set(card["images"]["sources"]) == {
        "cmu1_small_region",
        "dsb2018",
        "nucls",
        "tcga_lung_uni",
    }


def test_the_packaged_weights_of_cmd_tiny_restore_masked_pixels() -> None:
    network = CMD(64)
    network.load_state_dict(load_file(str(files("bench.backbones.cmd") / "cmd-tiny.safetensors")))
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    discs = ((rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2 < 64)[None, None]
    ground = torch.tensor((0.7, 0.3, 0.6)).view(1, 3, 1, 1)
    nuclei = torch.tensor((-0.3, -0.5, 0.2)).view(1, 3, 1, 1)
    clean, t = torch.where(discs, nuclei, ground), torch.tensor([300])  # (1, 3, 64, 64)
    masked = Masked().corrupt(clean, t, [torch.Generator().manual_seed(0)])
    with torch.inference_mode():
        restored = network(masked, t)
    gone = (masked == 0).all(dim=1, keepdim=True).expand_as(clean)
    flat = clean.mean((2, 3), keepdim=True).expand_as(clean)
    error = (restored - clean)[gone].abs().mean()
    assert error < 0.7 * (flat - clean)[gone].abs().mean()
    assert (restored - clean)[~gone].abs().mean() < 0.1
