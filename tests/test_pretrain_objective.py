"""The corruption and the loss, against slow loops and equations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.pretrain.corruption import corrupt, draw_times, mask_patches, masked_count
from bench.pretrain.objective import gaussian_window, reconstruction_loss, ssim


def _images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patches", [1024, 1000, 64, 7])
def test_the_number_of_masked_patches_is_exact(patches: int) -> None:
    told = masked_count(torch.arange(1, 1001), patches).tolist()
    assert told == [int(Fraction(t, 1001) * patches) for t in range(1, 1001)]


def test_masking_zeroes_whole_patches_and_leaves_the_others_be() -> None:
    images = 0.5 + _images(3, 3, 64, 32)
    counts = torch.tensor([0, 5, 32])
    masked = mask_patches(images, counts, torch.Generator().manual_seed(0))
    gone = (masked == 0).all(dim=1)  # (N, H, W)
    patches = gone.unflatten(2, (4, 8)).unflatten(1, (8, 8))  # (N, 8, 8, 4, 8)
    assert (patches.sum((2, 4)) == 64).sum((1, 2)).tolist() == counts.tolist()
    assert gone.sum((1, 2)).tolist() == (64 * counts).tolist()
    kept = ~gone[:, None].expand_as(images)
    assert torch.equal(masked[kept], images[kept])


@pytest.mark.parametrize(("schedule", "whole"), [("t/(T+1)", 1001), ("t/T", 1000)])
def test_every_time_masks_exactly_its_share_of_patches(schedule: str, whole: int) -> None:
    t = torch.arange(1, 1001, 37)
    images = 0.5 + _images(len(t), 3, 32, 48)
    masked = corrupt(images, t, schedule, torch.Generator().manual_seed(1))
    zero = (masked == 0).all(dim=1).unflatten(2, (6, 8)).unflatten(1, (4, 8)).all(4).all(2)
    told = zero.sum((1, 2)).tolist()
    assert told == [int(Fraction(each, whole) * 24) for each in t.tolist()]


def test_at_the_last_time_one_schedule_masks_all_and_the_other_all_but_one() -> None:
    t = torch.tensor([1000])
    assert masked_count(t, 1024, "t/T").item() == 1024
    assert masked_count(t, 1024, "t/(T+1)").item() == 1022


def test_masks_are_uniform_over_patches_and_differ_between_images() -> None:
    images = torch.ones(4000, 1, 16, 16)
    kept = mask_patches(images, torch.full((4000,), 1), torch.Generator().manual_seed(0))
    share = 1 - kept[:, 0, ::8, ::8].mean(dim=0)  # (2, 2)
    assert share.flatten().tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_times_are_uniform_from_1_to_1000() -> None:
    t = draw_times(200_000, torch.Generator().manual_seed(0))
    assert (t.min().item(), t.max().item()) == (1, 1000)
    assert t.float().mean().item() == pytest.approx(500.5, abs=2)


# ---- structural similarity -------------------------------------------------------------------


def _slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Give the SSIM of (C, H, W) float64 in [0, 1] as equation 8 says, a window at a time."""
    axis = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.5**2))
    weight = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for channel in range(len(x)):
        for row in range(x.shape[1] - 4):
            for column in range(x.shape[2] - 4):
                place = (channel, slice(row, row + 5), slice(column, column + 5))
                a, b = x[place], y[place]
                mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
                var_a, var_b = (
                    (weight * (a - mean_a) ** 2).sum(),
                    (weight * (b - mean_b) ** 2).sum(),
                )
                both = (weight * (a - mean_a) * (b - mean_b)).sum()
                above = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
                values.append(above / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_that_of_a_slow_loop() -> None:
    x, y = _images(2, 3, 12, 15).double(), _images(2, 3, 12, 15, seed=1).double()
    told = ssim(2 * x - 1, 2 * y - 1)
    wanted = [_slow_ssim(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
    assert told.tolist() == pytest.approx(wanted, abs=1e-12)


def test_ssim_is_close_to_that_of_scikit_image_with_its_uniform_window() -> None:
    smooth = torch.nn.functional.avg_pool2d(_images(1, 3, 70, 70), 7, stride=1)
    noisy = smooth + 0.02 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    noisy = noisy.clamp(0, 1)
    wanted = structural_similarity(
        smooth[0].numpy(), noisy[0].numpy(), win_size=5, channel_axis=0, data_range=1
    )
    assert ssim(2 * smooth - 1, 2 * noisy - 1).item() == pytest.approx(np.float64(wanted), abs=0.03)  # type: ignore[arg-type]


def test_ssim_of_equal_images_is_one() -> None:
    images = 2 * _images(2, 3, 16, 16) - 1
    assert ssim(images, images).tolist() == pytest.approx([1, 1], abs=1e-6)
    assert gaussian_window().sum().item() == pytest.approx(1)


def test_the_loss_is_equation_9() -> None:
    clean, prediction = 2 * _images(2, 3, 16, 16) - 1, 3 * _images(2, 3, 16, 16, seed=1) - 1.5
    l1 = (clean - prediction).abs().mean().item()
    unlike = (1 - ssim(prediction, clean).mean().item()) / 2
    assert reconstruction_loss(prediction, clean, 0).item() == pytest.approx(l1)
    told = reconstruction_loss(prediction, clean, 0.3).item()
    assert told == pytest.approx(l1 + 0.3 * unlike)


def test_a_step_down_the_gradient_of_ssim_makes_images_more_alike() -> None:
    clean = 2 * _images(1, 3, 16, 16) - 1
    prediction = torch.zeros_like(clean).requires_grad_()
    loss = reconstruction_loss(prediction, clean, 1.0)
    loss.backward()
    assert prediction.grad is not None
    with torch.no_grad():
        assert reconstruction_loss(prediction - 0.1 * prediction.grad, clean, 1.0) < loss
