"""Image shifts: their effect, and how they are undone on the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.data.shifts import SHIFTS, blurred, compressed, grown, lit, shift, shrunk, stained
from bench.errors import BenchError


def _image(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_shift_changes_an_image_and_keeps_its_shape_and_type() -> None:
    for name in SHIFTS:
        for size in ((33, 47), (8, 8)):
            image = _image(*size)
            before = image.copy()
            changed = shift(name).apply(image)
            assert (changed.shape, changed.dtype) == (image.shape, np.uint8), name
            assert not np.array_equal(changed, image), name
            assert np.array_equal(image, before), name
            assert np.array_equal(shift(name).apply(image), changed), name
            logits = torch.rand(2, *size)
            assert shift(name).undo(logits).shape == logits.shape, name
    with pytest.raises(BenchError, match=r"unknown shift 'fog'\. Choose one of blur-1, blur-2"):
        shift("fog")


@pytest.mark.parametrize("kind", ["stain", "blur", "jpeg", "brightness"])
def test_a_higher_strength_changes_more(kind: str) -> None:
    smooth = blurred(_image(), 2).astype(float)
    image = (200 + 3 * (smooth - smooth.mean())).clip(0, 255).astype(np.uint8)
    gaps = [
        np.abs(shift(f"{kind}-{strength}").apply(image).astype(float) - image).mean()
        for strength in (1, 2, 3)
    ]
    assert gaps[0] < gaps[1] < gaps[2]


def test_stains_are_multiplied_in_optical_density() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    assert np.array_equal(stained(white, 1.5, 0.5), white)
    image = _image()
    assert np.abs(stained(image, 1, 1).astype(int) - image).max() <= 1
    haematoxylin = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    pure = np.rint(256 * np.exp(-0.8 * haematoxylin) - 1).astype(np.uint8).reshape(1, 1, 3)
    expected = 256 * np.exp(-0.8 * 1.5 * haematoxylin) - 1
    np.testing.assert_allclose(stained(pure, 1.5, 1.0)[0, 0], expected, atol=2)
    np.testing.assert_allclose(stained(pure, 1.0, 0.5)[0, 0], pure[0, 0], atol=2)


def test_brightness_is_multiplied_and_jpeg_keeps_flat_images() -> None:
    assert lit(np.full((2, 2, 3), 200, np.uint8), 0.7)[0, 0, 0] == 140
    flat = np.full((16, 16, 3), 128, np.uint8)
    assert np.array_equal(compressed(flat, 30), flat)


@pytest.mark.parametrize("factor", [0.85, 0.7, 0.5])
def test_shrinking_is_undone_in_place(factor: float) -> None:
    image = np.zeros((64, 80, 3), np.uint8)
    image[10:30, 50:70] = 255
    seen = torch.from_numpy(shrunk(image, factor)[..., 0].astype(np.float32))[None]
    back = grown(seen, factor)[0].numpy() > 127
    truth = image[..., 0] > 0
    assert (back & truth).sum() / (back | truth).sum() > 0.85
    assert shrunk(image, factor).sum() > 0
