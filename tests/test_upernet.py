"""UperNet: parameter counts, its auxiliary head, single images, and its information flow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import registry
from bench.heads._upernet import WIDTH, BatchNorm, PyramidPooling, UperHead

CHANNELS, SIZES = (4, 5, 6, 7), ((16, 24), (8, 12), (4, 6), (2, 3))
SIZE = (32, 48)


def maps_of(images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(images, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def build(channels: tuple[int, ...] = CHANNELS) -> UperHead:
    torch.manual_seed(0)
    return UperHead(channels, 2)


def test_the_parameter_counts_are_those_of_the_original() -> None:
    for width, whole, auxiliary in ((768, 34_027_524, 1_770_498), (1024, 36_714_500, 2_360_322)):
        with torch.device("meta"):
            head = registry.get("heads", "upernet").build((width,) * 4, (4, 8, 16, 32), 2)
        assert sum(weight.numel() for weight in head.parameters()) == whole
        assert sum(weight.numel() for weight in head.auxiliary.parameters()) == auxiliary


def test_the_auxiliary_head_takes_the_second_coarsest_map() -> None:
    for channels, expected in (((3,), 3), ((3, 4), 3), ((3, 4, 5, 6), 5)):
        assert build(channels).auxiliary[0][0].in_channels == expected  # type: ignore[index]


def test_the_auxiliary_head_adds_0_4_of_its_loss_and_is_unused_at_inference() -> None:
    head = build().eval()
    maps, target = maps_of(), torch.randint(2, (2, *SIZE))
    with torch.no_grad():
        logits = head(maps, SIZE)
        coarse = F.interpolate(head.auxiliary(maps[2]), SIZE, mode="bilinear")
        expected = head.loss(logits, target) + 0.4 * head.loss(coarse, target)
        assert head.training_loss(maps, target).item() == pytest.approx(expected.item())
        for weight in head.auxiliary.parameters():
            nn.init.constant_(weight, torch.nan)
        assert torch.equal(head(maps, SIZE), logits)


def test_the_coarsest_map_reaches_the_finest_level() -> None:
    head, maps = build().eval(), maps_of()
    fuse = head.fuse[0].weight
    assert isinstance(fuse, Tensor)
    with torch.no_grad():
        fuse[:, WIDTH:] = 0  # the finest level decides alone
        logits = head(maps, SIZE)
        assert not torch.allclose(head([*maps[:-1], maps[-1] + 1], SIZE), logits, atol=1e-5)


def test_pooling_gives_every_pixel_a_global_receptive_field() -> None:
    pool = PyramidPooling(3).eval()
    features = torch.randn(1, 3, 12, 12, requires_grad=True)
    pool(features)[0, :, 0, 0].sum().backward()
    assert features.grad is not None
    assert features.grad[0, :, -1, -1].any()


def test_a_batch_of_one_image_trains() -> None:
    head = build().train()
    maps, target = maps_of(images=1), torch.randint(2, (1, *SIZE))
    head.training_loss(maps, target).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in head.parameters())


def test_batch_norm_equals_torch_except_for_one_value_per_channel() -> None:
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for shape in ((2, 3, 1, 1), (1, 3, 4, 5)):
        features = 2 + 3 * torch.randn(shape)
        torch.testing.assert_close(ours(features), theirs(features))
    lone = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(ours(lone), theirs.eval()(lone))
