"""TransUNet and its head: published parameter counts, parts against timm's, and training."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm_act import GroupNormAct
from timm.layers.std_conv import StdConv2d
from timm.models.resnetv2 import ResNetV2 as TimmResNetV2
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from bench import registry
from bench.api import Head
from bench.backbones._resnetv2 import ResNetV2, StandardisedConv
from bench.backbones._transunet import Block, TransUNetExtractor, TransUNetSize
from bench.errors import BenchError
from bench.heads._decoder import up_factors
from bench.models.load import describe
from bench.testing import check_backbone

TINY = TransUNetSize(width=32, units=(1, 1, 1), dim=24, depth=2, heads=2)


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _tiny(input_px: int = 32) -> TransUNetExtractor:
    torch.manual_seed(0)
    return TransUNetExtractor(input_px, TINY).eval()


def _head(channels: tuple[int, ...], strides: tuple[int, ...]) -> Head:
    torch.manual_seed(0)
    return registry.get("heads", "decoder-cup").build(channels, strides, 2)


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _copy_in_order(target: nn.Module, source: nn.Module) -> None:
    """Copy weights, drawn at random, between two networks that list them in the same order."""
    ours, theirs = target.state_dict(), source.state_dict()
    assert [each.shape for each in ours.values()] == [each.shape for each in theirs.values()]
    drawn = {name: torch.randn_like(each) for name, each in theirs.items()}
    source.load_state_dict(drawn)
    target.load_state_dict(dict(zip(ours, drawn.values(), strict=True)))


# ---- counts ----------------------------------------------------------------------------------


def test_transunet_has_the_parameter_count_of_the_paper() -> None:
    info = describe("transunet")
    assert info.parameters == info.trainable_parameters == info.backbone.params == 97_888_576
    assert (info.channels, info.strides) == ((64, 256, 512, 768), (2, 4, 8, 16))
    with torch.device("meta"):
        assert info.parameters + _count(_head(info.channels, info.strides)) == 105_276_066
        assert _count(ResNetV2()) == 11_894_848


def test_the_head_has_the_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        for coarsest, count in ((768, 7_387_200 + 290), (1536, 10_926_434)):
            assert _count(_head((64, 256, 512, coarsest), (2, 4, 8, 16))) == count


def test_the_requested_side_decides_the_number_of_positions() -> None:
    more = describe("transunet", {"input_px": "512"}).parameters - describe("transunet").parameters
    assert more == (32 * 32 - 14 * 14) * 768
    for side in ("0", "500"):
        with pytest.raises(BenchError, match=f"multiple of 16, got {side}"):
            describe("transunet", {"input_px": side})


# ---- the parts, against hand computation and timm --------------------------------------------


def test_a_standardised_convolution_equals_a_manual_one() -> None:
    torch.manual_seed(0)
    layer = StandardisedConv(5, 4, 3, stride=2).double()
    images = _images(2, 5, 8, 10).double()
    filters = layer.weight.detach().numpy().reshape(4, -1)
    filters = (filters - filters.mean(1, keepdims=True)) / np.sqrt(filters.var(1) + 1e-5)[:, None]
    columns = F.unfold(images, 3, padding=1, stride=2).numpy()  # (N, 5 * 9, 4 * 5)
    expected = (filters @ columns).reshape(2, 4, 4, 5)
    np.testing.assert_allclose(layer(images).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("size", [(32, 48), (35, 50)])
def test_the_cnn_equals_timms_hybrid_network(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = TimmResNetV2(
        layers=(2, 1, 2),  # type: ignore[arg-type]
        channels=(128, 256, 512),  # type: ignore[arg-type]
        stem_chs=32,
        num_classes=0,
        preact=False,
        conv_layer=partial(StdConv2d, eps=1e-5),  # type: ignore[arg-type]
        norm_layer=partial(GroupNormAct, num_groups=32, eps=1e-6),
    ).eval()
    ours = ResNetV2(32, (2, 1, 2))
    _copy_in_order(ours, theirs)
    images = _images(2, 3, *size)
    stem = theirs.stem[:2](images)  # type: ignore[index]
    _, *expected = theirs.forward_intermediates(images, intermediates_only=True)
    for actual, level in zip(ours(images), [stem, *expected], strict=True):
        torch.testing.assert_close(actual, level, rtol=1e-3, atol=1e-3)
    finest = ours(images, levels=2)
    assert [torch.equal(*pair) for pair in zip(finest, ours(images), strict=False)] == [True, True]


def test_a_layer_of_the_vit_equals_timms() -> None:
    torch.manual_seed(0)
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    theirs = TimmBlock(24, 2, qkv_bias=True, norm_layer=norm)
    ours = Block(24, 2).eval()
    _copy_in_order(ours, theirs)
    tokens = _images(2, 7, 24)
    torch.testing.assert_close(ours(tokens), theirs.eval()(tokens), rtol=1e-4, atol=1e-4)


# ---- the extractor ---------------------------------------------------------------------------


def test_a_small_transunet_passes_the_checks() -> None:
    assert check_backbone(_tiny(), sizes=[(32, 32), (16, 48), (48, 32)]) == []


def test_every_position_has_a_different_embedding() -> None:
    extractor, flat = _tiny(32), torch.full((1, 3, 32, 32), 0.5)
    with torch.no_grad():
        extractor.to_tokens.weight.zero_()
        assert extractor(flat)[-1].std(dim=(2, 3)).min() > 1e-4
        extractor.positions.zero_()
        assert extractor(flat)[-1].std(dim=(2, 3)).max() < 1e-5


def test_positions_follow_the_grid() -> None:
    extractor = _tiny(64)  # a grid of 4 x 4
    with torch.no_grad():
        columns = torch.linspace(-1, 1, 4).expand(4, 4).reshape(1, 16, 1)
        extractor.positions.copy_(columns.expand(-1, -1, 24))
        same, wide = extractor._positions(4, 4), extractor._positions(2, 8).view(2, 8, 24)
    assert torch.equal(same, extractor.positions)
    assert (wide.diff(dim=1) > 0).all()
    assert wide.diff(dim=0).abs().max() < 1e-5


def test_dropout_is_active_in_training_alone() -> None:
    extractor, images = _tiny(), _images(1, 3, 32, 32)
    assert torch.equal(extractor(images)[-1], extractor(images)[-1])
    extractor.train()
    once, again = extractor(images), extractor(images)
    assert not torch.allclose(once[-1], again[-1], atol=1e-3)
    assert torch.equal(once[2], again[2])  # the skips have none
    rates = {part.p for part in extractor.modules() if isinstance(part, nn.Dropout)}
    assert rates == {0.1}


# ---- the head --------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [(16,), (2, 4, 8, 14), (1, 2, 4, 4, 8, 16)])
def test_every_map_affects_the_logits_for_any_strides(strides: tuple[int, ...]) -> None:
    head = _head((3,) * len(strides), strides).eval()
    maps = [torch.randn(1, 3, 224 // s, 224 // s) for s in strides]
    maps = [each[..., :14, :14].requires_grad_() for each in maps]  # small; the head trusts shapes
    logits = head(maps, (33, 20))
    assert logits.shape == (1, 2, 33, 20)
    for slope in torch.autograd.grad(logits.square().sum(), maps):
        assert slope.any()


def test_maps_of_patch_14_are_decoded_to_the_image_size() -> None:
    head: Any = _head((4, 4, 4, 4), (2, 4, 8, 14)).eval()
    sizes: list[tuple[int, ...]] = []
    head.classify.register_forward_hook(lambda *args: sizes.append(tuple(args[2].shape[-2:])))
    head([torch.randn(1, 4, 98 // s, 126 // s) for s in (2, 4, 8, 14)], (98, 126))
    assert sizes == [(98, 126)]


def test_too_many_strides_are_refused() -> None:
    with pytest.raises(BenchError, match="at most 5 strides"):
        _head((3,) * 6, (1, 2, 4, 8, 16, 32))


def test_the_blocks_without_a_skip_share_the_remaining_stride() -> None:
    for stride, blocks in ((16, 4), (14, 4), (32, 4), (1, 4), (2, 1), (4, 0)):
        factors = up_factors(stride, blocks)
        assert len(factors) == blocks
        assert np.prod(factors) == pytest.approx(stride if blocks else 1)
        assert all(1 <= factor <= 2 for factor in factors[:-1])


def test_the_loss_is_half_that_of_the_other_heads() -> None:
    logits, target = torch.randn(2, 2, 8, 8), torch.randint(2, (2, 8, 8))
    usual = registry.get("heads", "linear").build((3,), (1,), 2).loss(logits, target)
    assert _head((3,), (1,)).loss(logits, target).item() == pytest.approx(usual.item() / 2)
