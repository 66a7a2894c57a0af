"""Views cut images into square patches and bring the logits back."""

from __future__ import annotations

import numpy as np
import torch

from bench.features.views import View

SIZES = [(64, 64), (150, 200), (65, 64), (20, 100), (3, 5), (200, 30)]


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tiles_of_an_image_merge_back_to_the_image():
    view = View("tiles", 64)
    for size in SIZES:
        image = _image(*size)
        patches = view.cut_image(image)
        assert patches.shape == (view.patches(*size), 3, 64, 64)
        merged = view.merge(patches, size).permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(merged, image, atol=1e-3)


def test_the_whole_view_gives_one_square_and_logits_of_native_size():
    view = View("whole", 32)
    for size in SIZES:
        assert view.cut_image(_image(*size)).shape == (1, 3, 32, 32)
        assert view.merge(torch.zeros(1, 2, 32, 32), size).shape == (2, *size)
    image = _image(32, 32)
    patch = view.cut_image(image)[0].permute(1, 2, 0)
    np.testing.assert_array_equal((patch * 255).round().numpy(), image)


def test_tiles_overlap_by_a_quarter_at_least():
    view = View("tiles", 64)
    starts = sorted({y for y, _ in view._corners(500, 64)})
    gaps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] == 500 - 64
    assert gaps.max() <= 48


def test_overlapping_tiles_are_weighted_by_the_distance_from_their_edge():
    logits = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 3.0)])
    merged = View("tiles", 4).merge(logits, (4, 6))  # the tiles share the columns 2 and 3
    for row in merged[0]:
        torch.testing.assert_close(row, torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 3.0]))


def test_targets_have_the_size_of_the_patch():
    instances = np.zeros((64, 64), np.int32)
    instances[:, 32:] = 7
    target = View("whole", 16).cut_target(instances)
    assert target.shape == (1, 16, 16)
    assert target.dtype == torch.int64
    assert target[0, :, :8].sum() == 0
    assert target[0, :, 8:].all()


def test_a_target_pixel_is_nucleus_if_half_of_it_is():
    instances = np.zeros((32, 32), np.int32)
    instances[:, 17:] = 1  # half of column 8 of the target
    target = View("whole", 16).cut_target(instances)[0]
    assert target.sum(dim=0).tolist() == [0] * 8 + [16] * 8


def test_targets_are_cut_like_images():
    instances = np.arange(100 * 90).reshape(100, 90) % 3
    view = View("tiles", 64)
    merged = view.merge(view.cut_target(instances)[:, None].float(), (100, 90))
    np.testing.assert_array_equal(merged[0].round().numpy(), instances != 0)
