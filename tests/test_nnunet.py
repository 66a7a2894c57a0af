"""nnU-Net: parameter counts, the planner, and the maps against the library's network."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from bench import registry
from bench.api import FeatureExtractor
from bench.errors import BenchError
from bench.models.load import describe, open_backbone
from bench.testing import check_backbone

WIDTHS_12M = (40, 80, 160, 256, 256, 256)


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


needs_nnunet = pytest.mark.skipif(find_spec("nnunetv2") is None, reason="needs nnunetv2")


@cache
def _small() -> FeatureExtractor:
    """Plan for 64 pixels: four maps, and a bottleneck of stride 16."""
    return open_backbone("nnunet", options={"input_px": "64"}).extractor


def _count_with_head(name: str, options: dict[str, str]) -> int:
    info = describe(name, options)
    with torch.device("meta"):
        head = registry.get("heads", info.backbone.default_head).build(
            info.channels, info.strides, 2
        )
    return info.parameters + sum(each.numel() for each in head.parameters())


# ---- counts and plans ------------------------------------------------------------------------


@needs_nnunet
def test_nnunet_12m_has_the_count_of_the_paper_and_is_trainable() -> None:
    info = describe("nnunet-12m")
    assert _count_with_head("nnunet-12m", {}) == 12_192_044
    assert info.parameters == info.trainable_parameters == info.backbone.params
    assert (info.channels, info.strides) == (WIDTHS_12M, (1, 2, 4, 8, 16, 32))


@needs_nnunet
@pytest.mark.parametrize(
    ("side", "count", "maps", "patch", "batch"),
    [
        (512, 46_325_134, 7, 512, 12),
        (256, 33_472_396, 6, 256, 49),
        (8, 0, 1, 8, 0),
    ],
)
def test_the_planner_plans_for_the_side_of_the_input(
    side: int, count: int, maps: int, patch: int, batch: int
) -> None:
    options = {"input_px": str(side)}
    info = describe("nnunet", options)
    assert info.facts["planned_patch_px"] == [patch, patch]
    assert info.strides == tuple(2**level for level in range(maps))
    if count:
        assert _count_with_head("nnunet", options) == count
        assert info.facts["planned_batch_size"] == batch


@pytest.mark.parametrize(
    ("name", "library"),
    [("nnunet", "nnunetv2"), ("nnunet-12m", "dynamic_network_architectures")],
)
def test_a_missing_library_is_named_with_its_install_command(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BenchError, match=rf"{library}.*pip install 'cmd-bench\[nnunet\]'.*timm"):
        describe(name)


# ---- the maps --------------------------------------------------------------------------------


@needs_nnunet
def test_a_planned_network_passes_the_checks() -> None:
    assert check_backbone(_small(), sizes=[(64, 64), (32, 64), (40, 24)]) == []


@needs_nnunet
def test_classified_maps_equal_the_librarys_logits() -> None:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    from bench.backbones._nnunet import NnUNet, standardise

    torch.manual_seed(0)
    network = PlainConvUNet(
        3, 4, (4, 6, 8, 10), torch.nn.Conv2d, 3, (1, 2, 2, 2), 2, 2, 2,
        norm_op=torch.nn.InstanceNorm2d, norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU, deep_supervision=True,
    )  # fmt: skip
    images = _images(2, 3, 24, 32)
    maps = NnUNet(network, {})(images)
    expected = network(standardise(images))
    for got, layer, logits in zip(
        maps, list(network.decoder.seg_layers)[::-1], expected, strict=True
    ):
        torch.testing.assert_close(layer(got), logits)


@needs_nnunet
def test_every_channel_of_every_image_is_standardised() -> None:
    from bench.backbones._nnunet import standardise

    images = _images(2, 3, 16, 16)
    normal = standardise(images)
    torch.testing.assert_close(normal.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((2, 3), correction=0), torch.ones(2, 3))
    scale, shift = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.1, 0.3, 0.0])
    other = images * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    torch.testing.assert_close(standardise(other), normal, atol=1e-4, rtol=1e-4)


@needs_nnunet
def test_too_small_images_are_refused() -> None:
    with pytest.raises(BenchError, match="7 pixels a side: --input-px 8 or more"):
        describe("nnunet", {"input_px": "7"})
    with pytest.raises(BenchError, match=r"got 16 x 16: --input-px 32"):
        _small()(_images(1, 3, 16, 16))
    assert len(_small()(_images(1, 3, 16, 24))) == 4


@needs_nnunet
def test_weights_have_he_initialisation() -> None:
    weight = dict(_small().named_parameters())["encode.3.0.convs.1.conv.weight"]
    fan_in = weight[0].numel()
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
    assert all(not each.any() for name, each in _small().named_parameters() if "bias" in name)


@needs_nnunet
def test_planning_is_silent_repeatable_and_leaves_the_environment_unchanged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    present, absent = "nnUNet_raw", "nnUNet_preprocessed"
    monkeypatch.setenv(present, "/elsewhere")
    monkeypatch.delenv(absent, raising=False)
    threads = torch.get_num_threads()
    first, second = (
        open_backbone("nnunet", options={"input_px": "24"}).extractor.state_dict() for _ in range(2)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert capfd.readouterr().out == ""
    assert os.environ[present] == "/elsewhere"
    assert absent not in os.environ
    assert torch.get_num_threads() == threads


def test_the_recipe_is_nnunets_except_for_its_length() -> None:
    for name in ("nnunet", "nnunet-12m"):
        recipe = registry.get("backbones", name).recipe
        assert (recipe.optimiser, recipe.momentum, recipe.nesterov) == ("sgd", 0.99, True)
        assert (recipe.lr, recipe.weight_decay, recipe.schedule) == (0.01, 3e-5, "poly")
        assert (recipe.augment, recipe.mirror, recipe.epochs) == ("nnunet", True, 150)
