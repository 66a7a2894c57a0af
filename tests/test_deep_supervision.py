"""The head of nnU-Net: its count, its weights of the losses, and its loss next to nnU-Net's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import registry
from bench.heads._deep_supervision import DeepSupervisionHead, shrink, supervision_weights
from bench.testing import check_head

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


def test_the_head_keeps_its_promises() -> None:
    assert check_head("deep-supervision") == []


def test_the_head_completes_the_count_of_nnunet_12m() -> None:
    head = registry.get("heads", "deep-supervision").build(
        (40, 80, 160, 256, 256, 256), (1, 2, 4, 8, 16, 32), 2
    )
    assert sum(weight.numel() for weight in head.parameters()) == 2108


@pytest.mark.parametrize(
    ("maps", "weights"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (4, [4 / 7, 2 / 7, 1 / 7, 0])],
)
def test_the_weights_halve_and_the_coarsest_has_none(maps: int, weights: list[float]) -> None:
    assert supervision_weights(maps) == pytest.approx(weights)


def test_the_finest_map_alone_answers() -> None:
    head, maps = head_of(), maps_of((16, 24))
    logits = head(maps, (16, 24))
    assert torch.equal(logits, head.classify[0](maps[0]))
    assert torch.equal(logits, head([maps[0], *(0 * each for each in maps[1:])], (16, 24)))
    larger = head(maps, (32, 48))
    torch.testing.assert_close(larger, F.interpolate(logits, (32, 48), mode="bilinear"))


def test_every_map_but_the_coarsest_teaches() -> None:
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


def test_a_single_map_is_taught_at_its_own_resolution() -> None:
    head, target = head_of((4,)), target_of((32, 48))
    features = torch.randn(2, 4, 8, 12)
    wanted = head.loss(head.classify[0](features), target[:, 2::4, 2::4])
    torch.testing.assert_close(head.training_loss([features], target), wanted)


def test_targets_shrink_to_the_pixel_in_the_middle_and_stay_classes() -> None:
    target = target_of((16, 24), classes=5)
    assert torch.equal(shrink(target, torch.empty(2, 5, 16, 24)), target)
    assert torch.equal(shrink(target, torch.empty(2, 5, 8, 12)), target[:, 1::2, 1::2])
    assert shrink(target, torch.empty(2, 5, 7, 11)).dtype == torch.int64


def test_the_loss_of_an_undecided_pixel_is_known_by_hand() -> None:
    loss = head_of().loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1).long())
    assert loss.item() == pytest.approx(math.log(2) + 1 - 2 * 0.5 / 1.5, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_loss_and_gradient_are_those_of_nnunets_own_trainer(classes: int) -> None:
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
    wanted = supervised(logits, targets)
    got = head.training_loss(maps, target)
    torch.testing.assert_close(got, wanted + 1)
    gradients = zip(
        torch.autograd.grad(got, maps[:3]), torch.autograd.grad(wanted, maps[:3]), strict=True
    )
    for ours, nnunets in gradients:
        torch.testing.assert_close(ours, nnunets)


def test_the_loss_is_finite_under_bfloat16_and_without_foreground() -> None:
    head, maps = head_of(), maps_of((16, 24))
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.training_loss(maps, torch.zeros(2, 16, 24).long())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_the_head_learns_to_see_what_is_there() -> None:
    target = torch.zeros(2, 32, 32, dtype=torch.long)
    target[:, 8:24, 8:24] = 1
    signal = target[:, None].float() + 0.1 * torch.randn(2, 3, 32, 32)
    maps = [signal, F.avg_pool2d(signal, 2), F.avg_pool2d(signal, 4)]
    head = head_of((3, 3, 3))
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.1)
    for _ in range(30):
        optimiser.zero_grad()
        head.training_loss(maps, target).backward()
        optimiser.step()
    assert (head.decode(head(maps, (32, 32))) == target).float().mean() > 0.95
