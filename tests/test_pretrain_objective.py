"""The corruption and the loss, against slow loops and equations."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.pretrain.masking import mask_patches, masked_count
from bench.pretrain.objective import (
    Gaussian,
    Masked,
    draw_times,
    reconstruction_loss,
    ssim,
)


def _generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed * count + i) for i in range(count)]


def _images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patches", [1024, 1000, 64, 7])
def test_the_number_of_masked_patches_is_exact(patches: int) -> None:
    result = masked_count(torch.arange(1, 1001), patches).tolist()
    assert result == [int(Fraction(t, 1001) * patches) for t in range(1, 1001)]


def test_masking_zeroes_whole_patches_and_keeps_the_others() -> None:
    images = 0.5 + _images(3, 3, 64, 32)
    counts = torch.tensor([0, 5, 32])
    masked = mask_patches(images, counts, _generators(3))
    hidden = (masked == 0).all(dim=1)  # (N, H, W)
    patches = hidden.unflatten(2, (4, 8)).unflatten(1, (8, 8))  # (N, 8, 8, 4, 8)
    assert (patches.sum((2, 4)) == 64).sum((1, 2)).tolist() == counts.tolist()
    assert hidden.sum((1, 2)).tolist() == (64 * counts).tolist()
    visible = ~hidden[:, None].expand_as(images)
    assert torch.equal(masked[visible], images[visible])


@pytest.mark.parametrize(("schedule", "whole"), [("t/(T+1)", 1001), ("t/T", 1000)])
def test_every_time_step_masks_exactly_its_share_of_patches(schedule: str, whole: int) -> None:
    t = torch.arange(1, 1001, 37)
    images = 0.5 + _images(len(t), 3, 32, 48)
    masked = Masked(schedule).corrupt(images, t, _generators(len(t)))
    zero = (masked == 0).all(dim=1).unflatten(2, (6, 8)).unflatten(1, (4, 8)).all(4).all(2)
    result = zero.sum((1, 2)).tolist()
    assert result == [int(Fraction(step, whole) * 24) for step in t.tolist()]


def test_masks_are_uniform_over_patches_and_differ_between_images() -> None:
    images = torch.ones(4000, 1, 16, 16)
    masked = mask_patches(images, torch.full((4000,), 1), _generators(4000))
    share = 1 - masked[:, 0, ::8, ::8].mean(dim=0)  # (2, 2)
    assert share.flatten().tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_times_are_uniform_from_1_to_1000() -> None:
    t = draw_times([torch.Generator().manual_seed(0)] * 50_000)
    assert (t.min().item(), t.max().item()) == (1, 1000)
    assert t.float().mean().item() == pytest.approx(500.5, abs=4)


def test_the_corruption_of_an_image_does_not_depend_on_its_batch() -> None:
    images, t = _images(3, 3, 32, 32), torch.tensor([100, 500, 900])
    for objective in (Masked(), Gaussian()):
        together = objective.corrupt(images, t, _generators(3))
        for number, generator in enumerate(_generators(3)):
            one = slice(number, number + 1)
            alone = objective.corrupt(images[one], t[one], [generator])
            assert torch.equal(alone, together[one])


def test_latents_are_masked_in_patches_of_four() -> None:
    masked = Masked(patch=4).corrupt(1 + _images(1, 4, 32, 32), torch.tensor([500]), _generators(1))
    patches = (masked[0] == 0).all(dim=0).unflatten(1, (8, 4)).unflatten(0, (8, 4))
    assert patches.all(3).all(1).sum().item() == 500 * 64 // 1001


# ---- Gaussian noise --------------------------------------------------------------------------


def test_noise_has_the_variance_of_the_linear_schedule() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    clean = torch.full((1, 3, 128, 128), 0.5)
    for time in (1, 50, 500, 1000):
        noisy = Gaussian().corrupt(clean, torch.tensor([time]), _generators(1))
        signal = float(np.prod(1 - betas[:time]))
        assert noisy.mean().item() == pytest.approx(0.5 * signal**0.5, abs=0.02)
        assert noisy.std().item() == pytest.approx((1 - signal) ** 0.5, rel=0.02)


def test_the_true_noise_has_zero_loss_and_restores_the_clean_image() -> None:
    clean, t = 2 * _images(2, 3, 16, 16) - 1, torch.tensor([50, 900])
    corrupted = Gaussian().corrupt(clean, t, _generators(2))
    noise = torch.stack([torch.randn(3, 16, 16, generator=g) for g in _generators(2)])
    objective = Gaussian(epsilon=True)
    assert objective.loss(noise, clean, corrupted, t).item() == pytest.approx(0, abs=1e-9)
    assert objective.loss(noise + 0.1, clean, corrupted, t).item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(objective.restored(noise, corrupted, t), clean, atol=1e-4, rtol=0)
    assert Gaussian().loss(clean + 0.1, clean, corrupted, t).item() == pytest.approx(0.1)
    assert Gaussian().restored(clean, corrupted, t) is clean


# ---- structural similarity -------------------------------------------------------------------


def _slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Return the SSIM (equation 8) of (C, H, W) float64 in [0, 1], one window at a time."""
    axis = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.5**2))
    weight = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for channel in range(len(x)):
        for row in range(x.shape[1] - 4):
            for column in range(x.shape[2] - 4):
                window = (channel, slice(row, row + 5), slice(column, column + 5))
                a, b = x[window], y[window]
                mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
                var_a, var_b = (
                    (weight * (a - mean_a) ** 2).sum(),
                    (weight * (b - mean_b) ** 2).sum(),
                )
                both = (weight * (a - mean_a) * (b - mean_b)).sum()
                above = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
                values.append(above / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


def test_ssim_equals_a_slow_loop() -> None:
    x, y = _images(2, 3, 12, 15).double(), _images(2, 3, 12, 15, seed=1).double()
    y[1] = x[1]  # of equal images it is 1
    result = ssim(2 * x - 1, 2 * y - 1)
    expected = [_slow_ssim(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
    assert result.tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_is_close_to_that_of_scikit_image_with_its_uniform_window() -> None:
    smooth = torch.nn.functional.avg_pool2d(_images(1, 3, 70, 70), 7, stride=1)
    noisy = smooth + 0.02 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    noisy = noisy.clamp(0, 1)
    expected: Any = structural_similarity(
        smooth[0].numpy(), noisy[0].numpy(), win_size=5, channel_axis=0, data_range=1
    )
    assert ssim(2 * smooth - 1, 2 * noisy - 1).item() == pytest.approx(expected, abs=0.03)


def test_the_loss_is_equation_9() -> None:
    clean, prediction = 2 * _images(2, 3, 16, 16) - 1, 3 * _images(2, 3, 16, 16, seed=1) - 1.5
    l1 = (clean - prediction).abs().mean().item()
    dissimilarity = (1 - ssim(prediction, clean).mean().item()) / 2
    assert reconstruction_loss(prediction, clean, 0).item() == pytest.approx(l1)
    result = reconstruction_loss(prediction, clean, 0.3).item()
    assert result == pytest.approx(l1 + 0.3 * dissimilarity)


def test_a_gradient_step_increases_ssim() -> None:
    clean = 2 * _images(1, 3, 16, 16) - 1
    prediction = torch.zeros_like(clean).requires_grad_()
    loss = reconstruction_loss(prediction, clean, 1.0)
    loss.backward()
    assert prediction.grad is not None
    with torch.no_grad():
        assert reconstruction_loss(prediction - 0.1 * prediction.grad, clean, 1.0) < loss
