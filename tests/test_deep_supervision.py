"""Head of nnU-Net: parameter count, loss weights, and its loss against nnU-Net's trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import registry
from bench.heads._deep_supervision import DeepSupervisionHead, shrink, supervision_weights

CHANNELS, STRIDES = (4, 5, 6, 7), (1, 2, 4, 8)


def maps_of(size: tuple[int, int], channels: Sequence[int] = CHANNELS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, c, size[0] // s, size[1] // s) for c, s in zip(channels, STRIDES, strict=False)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def target_of(size: tuple[int, int], classes: int = 2) -> Tensor:
    return torch.randint(classes, (2, *size), generator=torch.Generator().manual_seed(2))


def head_of(channels: Sequence[int] = CHANNELS, classes: int = 2) -> DeepSupervisionHead:
    torch.manual_seed(0)
    return DeepSupervisionHead(channels, classes)


def test_the_head_has_the_parameter_count_of_nnunet_12m() -> None:
    head = registry.get("heads", "deep-supervision").build(
        (40, 80, 160, 256, 256, 256), (1, 2, 4, 8, 16, 32), 2
    )
    assert sum(weight.numel() for weight in head.parameters()) == 2108


def test_the_loss_weights_halve_and_that_of_the_coarsest_map_is_zero() -> None:
    assert supervision_weights(1) == pytest.approx([1])
    assert supervision_weights(2) == pytest.approx([1, 0])
    assert supervision_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])


def test_the_logits_come_from_the_finest_map_alone() -> None:
    head, maps = head_of(), maps_of((16, 24))
    logits = head(maps, (16, 24))
    assert torch.equal(logits, head.classify[0](maps[0]))
    assert torch.equal(logits, head([maps[0], *(0 * each for each in maps[1:])], (16, 24)))
    larger = head(maps, (32, 48))
    torch.testing.assert_close(larger, F.interpolate(logits, (32, 48), mode="bilinear"))


def test_every_map_but_the_coarsest_gets_a_gradient() -> None:
    head, maps = head_of(), [each.requires_grad_() for each in maps_of((16, 24))]
    head.training_loss(maps, target_of((16, 24))).backward()
    assert [bool(each.grad is not None and each.grad.any()) for each in maps] == [True] * 3 + [
        False
    ]
    learns = [
        all(w.grad is not None and bool(w.grad.any()) for w in layer.parameters())
        for layer in head.classify
    ]
    assert learns == [True] * 3 + [False]


def test_a_single_map_is_trained_at_its_resolution() -> None:
    head, target = head_of((4,)), target_of((32, 48))
    features = torch.randn(2, 4, 8, 12)
    expected = head.loss(head.classify[0](features), target[:, 2::4, 2::4])
    torch.testing.assert_close(head.training_loss([features], target), expected)


def test_targets_are_shrunk_by_nearest_neighbour() -> None:
    target = target_of((16, 24), classes=5)
    assert torch.equal(shrink(target, torch.empty(2, 5, 16, 24)), target)
    assert torch.equal(shrink(target, torch.empty(2, 5, 8, 12)), target[:, 1::2, 1::2])
    assert shrink(target, torch.empty(2, 5, 7, 11)).dtype == torch.int64


@pytest.mark.parametrize("classes", [2, 3])
def test_loss_and_gradient_equal_those_of_nnunets_trainer(classes: int) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    options = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    theirs = DC_and_CE_loss(options, {}, dice_class=cast(Any, MemoryEfficientSoftDiceLoss))
    supervised = DeepSupervisionWrapper(theirs, [4 / 7, 2 / 7, 1 / 7, 0])
    head, target = head_of(classes=classes), target_of((16, 24), classes)
    maps = [each.requires_grad_() for each in maps_of((16, 24))]
    logits = [layer(each) for layer, each in zip(head.classify, maps, strict=True)]
    targets = [shrink(target, each)[:, None].float() for each in logits]
    expected = supervised(logits, targets)
    got = head.training_loss(maps, target)
    torch.testing.assert_close(got, expected + 1)
    gradients = zip(
        torch.autograd.grad(got, maps[:3]), torch.autograd.grad(expected, maps[:3]), strict=True
    )
    for ours, nnunets in gradients:
        torch.testing.assert_close(ours, nnunets)
