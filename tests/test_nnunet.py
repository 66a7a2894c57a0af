"""nnU-Net: the counts, the planner, the maps next to the library's own network, and its absence."""

from __future__ import annotations

import os
import sys
from functools import cache

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


def _needs_nnunet() -> None:
    pytest.importorskip("nnunetv2")


@cache
def _small() -> FeatureExtractor:
    """Plan for 64 pixels: four maps, and a bottleneck of stride 16."""
    return open_backbone("nnunet", options={"input_px": "64"}).extractor


def _count_with_head(name: str, options: dict[str, str]) -> int:
    told = describe(name, options)
    with torch.device("meta"):
        head = registry.get("heads", told.backbone.default_head).build(
            told.channels, told.strides, 2
        )
    return told.parameters + sum(each.numel() for each in head.parameters())


# ---- counts and plans ------------------------------------------------------------------------


def test_nnunet_12m_has_the_count_of_the_paper_and_trains_whole() -> None:
    _needs_nnunet()
    told = describe("nnunet-12m")
    assert _count_with_head("nnunet-12m", {}) == 12_192_044
    assert told.parameters == told.trainable_parameters == told.backbone.params
    assert (told.channels, told.strides) == (WIDTHS_12M, (1, 2, 4, 8, 16, 32))


@pytest.mark.parametrize(
    ("side", "count", "maps", "patch", "batch"),
    [
        (512, 46_325_134, 7, 512, 12),
        (500, 46_325_134, 7, 512, 12),
        (384, 33_472_396, 6, 384, 22),
        (256, 33_472_396, 6, 256, 49),
        (8, 0, 1, 8, 0),
    ],
)
def test_the_planner_plans_for_the_side_of_the_input(
    side: int, count: int, maps: int, patch: int, batch: int
) -> None:
    _needs_nnunet()
    options = {"input_px": str(side)}
    told = describe("nnunet", options)
    assert told.facts["planned_patch_px"] == [patch, patch]
    assert told.strides == tuple(2**level for level in range(maps))
    if count:
        assert _count_with_head("nnunet", options) == count
        assert told.facts["planned_batch_size"] == batch


def test_planning_prints_nothing_and_leaves_the_environment_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_nnunet()
    set_before, not_set_before = "nnUNet_raw", "nnUNet_preprocessed"
    monkeypatch.setenv(set_before, "/elsewhere")
    monkeypatch.delenv(not_set_before, raising=False)
    threads = torch.get_num_threads()
    describe("nnunet", {"input_px": "72"})
    assert capfd.readouterr().out == ""
    assert os.environ[set_before] == "/elsewhere"
    assert not_set_before not in os.environ
    assert torch.get_num_threads() == threads


def test_an_image_that_is_too_small_to_plan_for_is_refused() -> None:
    _needs_nnunet()
    with pytest.raises(BenchError, match="7 pixels a side: --input-px 8 or more"):
        describe("nnunet", {"input_px": "7"})


@pytest.mark.parametrize(
    ("name", "library"),
    [("nnunet", "nnunetv2"), ("nnunet-12m", "dynamic_network_architectures")],
)
def test_without_the_library_the_cure_is_told(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BenchError, match=rf"{library}.*pip install 'cmd-bench\[nnunet\]'.*timm"):
        describe(name)


# ---- the maps --------------------------------------------------------------------------------


def test_a_planned_network_keeps_its_promises() -> None:
    _needs_nnunet()
    assert check_backbone(_small(), sizes=[(64, 64), (32, 64), (40, 24)]) == []


def test_nnunet_12m_keeps_its_promises() -> None:
    _needs_nnunet()
    assert check_backbone("nnunet-12m") == []


def test_maps_classified_are_what_the_librarys_own_network_gives() -> None:
    _needs_nnunet()
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
    wanted = network(standardise(images))
    for got, layer, logits in zip(
        maps, list(network.decoder.seg_layers)[::-1], wanted, strict=True
    ):
        torch.testing.assert_close(layer(got), logits)


def test_every_channel_of_every_image_is_normalised_by_itself() -> None:
    _needs_nnunet()
    from bench.backbones._nnunet import standardise

    images = _images(2, 3, 16, 16)
    normal = standardise(images)
    torch.testing.assert_close(normal.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((2, 3), correction=0), torch.ones(2, 3))
    scale, shift = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.1, 0.3, 0.0])
    other = images * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    torch.testing.assert_close(standardise(other), normal, atol=1e-4, rtol=1e-4)


def test_an_image_that_the_coarsest_stage_reduces_to_a_pixel_is_refused() -> None:
    _needs_nnunet()
    with pytest.raises(BenchError, match=r"got 16 x 16: --input-px 32"):
        _small()(_images(1, 3, 16, 16))
    assert len(_small()(_images(1, 3, 16, 24))) == 4


def test_weights_start_as_he_et_al_draw_them() -> None:
    _needs_nnunet()
    weight = dict(_small().named_parameters())["encode.3.0.convs.1.conv.weight"]
    fan_in = weight[0].numel()
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
    assert all(not each.any() for name, each in _small().named_parameters() if "bias" in name)


def test_one_seed_gives_the_same_weights_whether_it_was_planned_before_or_not() -> None:
    _needs_nnunet()
    one, again = (
        open_backbone("nnunet", options={"input_px": "24"}).extractor.state_dict() for _ in range(2)
    )
    assert one.keys() == again.keys()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_a_few_steps_with_its_head_learn_a_square() -> None:
    _needs_nnunet()
    extractor = open_backbone("nnunet", options={"input_px": "32"}).extractor.train()
    head = registry.get("heads", "deep-supervision").build(extractor.channels, extractor.strides, 2)
    target = torch.zeros(2, 32, 32, dtype=torch.long)
    target[0, 4:16, 4:16] = target[1, 12:28, 8:20] = 1
    images = 0.8 - 0.5 * target[:, None] + 0.1 * _images(2, 3, 32, 32)
    weights = [*extractor.parameters(), *head.parameters()]
    optimiser = torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True)
    for _ in range(15):
        optimiser.zero_grad()
        head.training_loss(extractor(images), target).backward()
        optimiser.step()
    found = head.decode(head(extractor(images), (32, 32)).detach())
    assert (found == target).float().mean() > 0.97


def test_the_recipe_is_that_of_nnunet_but_for_its_length() -> None:
    for name in ("nnunet", "nnunet-12m"):
        recipe = registry.get("backbones", name).recipe
        assert (recipe.optimiser, recipe.momentum, recipe.nesterov) == ("sgd", 0.99, True)
        assert (recipe.lr, recipe.weight_decay, recipe.schedule) == (0.01, 3e-5, "poly")
        assert (recipe.augment, recipe.mirror, recipe.epochs) == ("nnunet", True, 150)
