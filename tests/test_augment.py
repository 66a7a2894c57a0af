"""Augmentation: invariants, alignment of image and target, probabilities, geometry and colour."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian as gaussian_of_skimage
from torch import Tensor

from bench.training.augment import AUGMENTATIONS, BLACK, augmentation, rotation, warp, zoom
from bench.training.colour import _blur, _contrast, _gamma, distort, from_hsv, gaussian, to_hsv
from bench.training.random_draws import Chance

SIDE = 48
POLICIES = tuple(AUGMENTATIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(images: int = 4) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(images, 3, SIDE, SIDE, generator=generator(1))
    return drawn, (drawn[:, 0] > 0.5).long()


def marked(images: int, foreground: float, background: float) -> tuple[Tensor, Tensor]:
    """Draw an off-centre letter L in red on grey."""
    targets = torch.zeros(images, SIDE, SIDE, dtype=torch.long)
    targets[:, 8:32, 10:18] = 1
    targets[:, 26:34, 10:34] = 1
    levels = torch.full((images, 3, SIDE, SIDE), background)
    levels[:, 0][targets == 1] = foreground
    return levels, targets


# ---- invariants of every policy ---------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_shapes_types_and_ranges_do_not_change(name: str, seed: int) -> None:
    images, targets = noise()
    before = images.clone(), targets.clone()
    changed, moved = augmentation(name)(images, targets, generator(seed))
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert (moved.shape, moved.dtype) == (targets.shape, targets.dtype)
    assert changed.isfinite().all()
    assert 0 <= changed.min() <= changed.max() <= 1
    assert set(moved.unique().tolist()) <= {0, 1}
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("name", POLICIES)
def test_a_flat_image_stays_finite_and_in_range(name: str) -> None:
    for level in (0.0, 0.5, 1.0):
        images = torch.full((40, 3, 16, 16), level)
        changed, moved = augmentation(name)(images, torch.zeros(40, 16, 16).long(), generator())
        assert changed.isfinite().all()
        assert 0 <= changed.min() <= changed.max() <= 1
        assert not moved.any()


@pytest.mark.parametrize("name", POLICIES)
def test_the_result_depends_on_the_generator_alone(name: str) -> None:
    images, targets = noise(8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = augmentation(name)(images, targets, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    same = augmentation(name)(images, targets, generator(3))
    other = augmentation(name)(images, targets, generator(4))
    assert all(torch.equal(*pair) for pair in zip(one, same, strict=True))
    assert torch.equal(one[0], other[0]) == (name == "none")
    if name == "none":
        assert torch.equal(one[0], images)
        assert torch.equal(one[1], targets)


# ---- the target moves with the image ---------------------------------------------------------


def looks_saturated(image: Tensor) -> Tensor:
    """Find what is rather red than grey, whatever was done to colour."""
    chroma = image.amax(0) - image.amin(0)
    return chroma > chroma.max() / 2


def looks_bright(image: Tensor) -> Tensor:
    """Find what is nearer to the brightest than to the usual level of red."""
    usual, brightest = image[0].median(), image[0].flatten().kthvalue(SIDE * SIDE - 20).values
    return image[0] > (usual + brightest) / 2


@pytest.mark.parametrize(
    ("name", "looks_marked"),
    [("turns", looks_saturated), ("photometric", looks_saturated), ("nnunet", looks_bright)],
)
def test_the_target_moves_with_the_image(
    name: str, looks_marked: Callable[[Tensor], Tensor]
) -> None:
    images, targets = marked(100, foreground=0.95, background=0.15)
    changed, moved = augmentation(name)(images, targets, generator())
    agree = [
        float((looks_marked(image) == (target == 1)).float().mean())
        for image, target in zip(changed, moved, strict=True)
    ]
    assert min(agree) > 0.95
    still = sum(bool(torch.equal(target, targets[0])) for target in moved)
    assert still < 40


# ---- how often, and how far ------------------------------------------------------------------


def test_turns_keeps_a_quarter_and_turns_half_by_right_angles() -> None:
    images, targets = noise(400)
    changed, _ = augmentation("turns")(images, targets, generator())
    alike = sum(bool(torch.equal(*pair)) for pair in zip(images, changed, strict=True))
    exact = sum(
        bool(torch.equal(one.flatten().sort()[0], other.flatten().sort()[0]))
        for one, other in zip(images, changed, strict=True)
    )
    assert alike / 400 == pytest.approx(0.25, abs=0.07)
    assert (exact - alike) / 400 == pytest.approx(0.5, abs=0.07)


def test_nnunet_keeps_the_expected_share_of_targets() -> None:
    _, targets = marked(400, 0.7, 0.15)
    _, moved = augmentation("nnunet")(torch.rand(400, 3, SIDE, SIDE), targets, generator())
    still = sum(bool(torch.equal(*pair)) for pair in zip(targets, moved, strict=True))
    assert still / 400 == pytest.approx(0.8 * 0.8 * 0.25, abs=0.06)


def test_photometric_scales_areas_by_a_quarter_to_four() -> None:
    images, targets = torch.rand(200, 3, SIDE, SIDE), torch.zeros(200, SIDE, SIDE).long()
    targets[:, 18:30, 18:30] = 1
    _, moved = augmentation("photometric")(images, targets, generator())
    areas = moved.sum((1, 2)) / targets[0].sum()
    assert areas.max() <= 4.3
    assert areas[areas > 0].quantile(0.02) < 0.4
    assert areas.quantile(0.9) > 2


# ---- geometry by hand ------------------------------------------------------------------------


def test_a_rotation_by_right_angles_is_exact() -> None:
    images, targets = noise(1)
    for quarters in range(4):
        image, target = warp(images[0], targets[0], rotation(90 * quarters), BLACK)
        expected = torch.rot90(images[0], quarters, (1, 2))
        torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)
        assert torch.equal(target, torch.rot90(targets[0], quarters))


def test_zooming_in_starts_at_the_corner_and_zooming_out_is_padded() -> None:
    images, targets = marked(1, 1.0, 0.0)
    quarter = SIDE // 2
    _, corner = warp(images[0], targets[0], zoom(2, (0.5, 0)), BLACK)
    assert torch.equal(corner[::2, ::2], targets[0][quarter:, :quarter])
    image, small = warp(1 - images[0], 1 - targets[0], zoom(0.5, (0, 0)), (0.2, 0.4, 0.6))
    assert small[:quarter, :quarter].any()
    assert not small[quarter:].any()
    assert not small[:, quarter:].any()
    outside = torch.tensor([0.2, 0.4, 0.6])[:, None].expand(3, SIDE)
    torch.testing.assert_close(image[:, -1], outside)


# ---- colour by hand --------------------------------------------------------------------------


def test_hsv_equals_colorsys_and_is_inverted() -> None:
    image = torch.rand(3, 8, 8, generator=generator())
    image[:, 0, 0] = 0.3
    image[:, 0, 1] = 0
    hue, saturation, value = to_hsv(image)
    expected = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in image.flatten(1).T.tolist()])
    torch.testing.assert_close(
        torch.stack([hue, saturation, value], -1).view(-1, 3), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(from_hsv(hue + 1, saturation, value), image, atol=1e-5, rtol=0)


def test_distorting_keeps_greys_grey() -> None:
    grey = torch.rand(1, SIDE, SIDE).expand(3, -1, -1)
    for seed in range(20):
        changed = distort(grey, Chance(generator(seed)))
        assert (changed - changed[:1]).abs().max() < 1e-5


def test_a_gaussian_has_unit_sum_and_its_variance() -> None:
    weights = gaussian(0.8)
    reach = len(weights) // 2
    offsets = torch.arange(-reach, reach + 1)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights * offsets**2).sum().item() == pytest.approx(0.64, rel=0.02)


class Fixed(Chance):
    """Always draw the middle of the range."""

    def between(self, low: float, high: float) -> float:
        return (low + high) / 2


def test_a_blur_equals_scikit_images() -> None:
    channel = torch.rand(SIDE, SIDE, generator=generator(), dtype=torch.float64)
    expected = gaussian_of_skimage(channel.numpy(), sigma=0.75, mode="mirror")
    blurred = _blur(channel, Fixed(generator()))
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-3, rtol=0)


def test_gamma_keeps_mean_deviation_and_order_and_contrast_keeps_the_range() -> None:
    channel = torch.randn(SIDE, SIDE, generator=generator())
    for seed in range(6):
        changed = _gamma(channel, Chance(generator(seed)))
        assert (changed - channel).abs().max() > 0.01
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(statistic(changed), statistic(channel))
        assert (changed.flatten()[channel.flatten().argsort()].diff() >= -1e-6).all()
        spread = _contrast(channel, Chance(generator(seed)))
        assert channel.min() <= spread.min() <= spread.max() <= channel.max()
        assert spread.std() != channel.std()


def test_chance_is_fair() -> None:
    chance = Chance(generator())
    draws = [chance.around_one(0.7, 1.5) for _ in range(2000)]
    assert 0.7 <= min(draws) < 0.71
    assert 1.49 < max(draws) < 1.5
    assert sum(draw < 1 for draw in draws) / 2000 == pytest.approx(0.5, abs=0.04)
    assert {chance.below(4) for _ in range(100)} == {0, 1, 2, 3}
    assert sum(chance.happens(0.2) for _ in range(2000)) / 2000 == pytest.approx(0.2, abs=0.04)
