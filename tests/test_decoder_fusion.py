"""The decoder's first convolution, of maps that are never enlarged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.heads import _decoder
from bench.heads._decoder import DecoderHead, convolve_enlarged


def _plain(features: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    return F.conv2d(F.interpolate(features, size, mode="bilinear"), weight, padding=1)


def _drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    times=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(1, 5),
)
def test_the_folded_convolution_equals_that_of_the_enlarged_map(
    sides: tuple[int, int], times: tuple[int, int], channels: int
) -> None:
    features, weight = _drawn(2, channels, *sides), _drawn(3, channels, 3, 3)
    size = sides[0] * times[0] + 1, sides[1] * times[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_decoder, "GAIN", 0)
        folded = convolve_enlarged(features, weight, size)
    plain = _plain(features, weight, size)
    assert folded.shape == plain.shape
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-11)
    expected = torch.autograd.grad(plain.square().sum(), [features, weight])
    gradients = torch.autograd.grad(folded.square().sum(), [features, weight])
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-9)


def test_coarse_maps_are_never_enlarged_and_fine_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    enlarged = []
    resize = _decoder._resize

    def noting(features: Tensor, size: tuple[int, int]) -> Tensor:
        enlarged.append(features.shape[1])
        return resize(features, size)

    monkeypatch.setattr(_decoder, "_resize", noting)
    head = DecoderHead((8, 24, 48), (1, 2, 16), 2).eval()
    maps = [torch.zeros(1, c, 64 // s, 64 // s) for c, s in ((8, 1), (24, 2), (48, 16))]
    with torch.no_grad():
        head(maps, size=(64, 64))
    assert 48 not in enlarged
    assert {8, 24} <= set(enlarged)


def test_the_head_in_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    head = DecoderHead((8, 64), (1, 16), 2).eval()
    maps = [torch.randn(1, 8, 32, 32), torch.randn(1, 64, 2, 2)]
    with torch.no_grad():
        expected = head(maps, size=(32, 32))
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(maps, size=(32, 32)).float()
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
