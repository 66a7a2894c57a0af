"""Colour and sharpness augmentation of one image (3, S, S), RGB in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.training.random_draws import Chance

# ---- mmsegmentation ----------------------------------------------------------------------------


def distort(image: Tensor, chance: Chance) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    mmsegmentation's photometric distortion, after SSD (Liu et al., arXiv:1512.02325): brightness by
    up to 32 / 255, contrast and saturation by a factor of 0.5 to 1.5, hue by up to a tenth of its
    circle. The change of contrast is the second or the last one.
    """
    if chance.happens(0.5):
        image = (image + chance.between(-32, 32) / 255).clamp(0, 1)
    contrast = chance.between(0.5, 1.5) if chance.happens(0.5) else 1.0
    contrast_last = chance.happens(0.5)
    if not contrast_last:
        image = (contrast * image).clamp(0, 1)
    hue, saturation, value = to_hsv(image)
    if chance.happens(0.5):
        saturation = (chance.between(0.5, 1.5) * saturation).clamp(0, 1)
    if chance.happens(0.5):
        hue = hue + chance.between(-0.1, 0.1)
    image = from_hsv(hue, saturation, value)
    return (contrast * image).clamp(0, 1) if contrast_last else image


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in turns, saturation and value, (S, S) each; grey has hue 0 and saturation 0."""
    red, green, blue = image  # (S, S) each
    value, brightest = image.max(0)  # (S, S)
    chroma = value - image.amin(0)  # (S, S)
    sixths = torch.stack([green - blue, blue - red, red - green]) / chroma.clamp(min=1e-8)
    sixths = sixths + sixths.new_tensor([0, 2, 4]).view(3, 1, 1)  # (3, S, S)
    hue = sixths.gather(0, brightest[None])[0] / 6 % 1  # (S, S)
    return hue, chroma / value.clamp(min=1e-8), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return the image (3, S, S) of hue in turns (modulo 1), saturation and value, (S, S) each."""
    offsets = hue.new_tensor([5, 3, 1]).view(3, 1, 1)
    sixths = (offsets + 6 * hue) % 6  # (3, S, S)
    reduction = torch.minimum(sixths, 4 - sixths).clamp(0, 1)  # (3, S, S)
    return value * (1 - saturation * reduction)


# ---- nnU-Net -----------------------------------------------------------------------------------


def intensities(image: Tensor, chance: Chance) -> Tensor:
    """Apply the intensity augmentation of nnU-Net v2, with its probabilities and ranges.

    Like nnU-Net, this works on standardised channels (mean 0, standard deviation 1): the image is
    standardised, changed, transformed back and clamped to [0, 1].
    """
    deviation, mean = torch.std_mean(image, dim=(1, 2), correction=0, keepdim=True)  # (3, 1, 1)
    deviation = deviation.clamp(min=1e-8)
    image = (image - mean) / deviation  # (3, S, S)
    if chance.happens(0.1):
        image = image + chance.between(0, 0.1) * chance.noise(image)
    if chance.happens(0.2):
        image = _some_channels(image, chance, _blur)
    if chance.happens(0.15):
        image = torch.stack([chance.around_one(0.75, 1.25) * channel for channel in image])
    if chance.happens(0.15):
        image = torch.stack([_contrast(channel, chance) for channel in image])
    if chance.happens(0.25):
        image = _some_channels(image, chance, _coarsen)
    if chance.happens(0.1):
        image = -torch.stack([_gamma(-channel, chance) for channel in image])
    if chance.happens(0.3):
        image = torch.stack([_gamma(channel, chance) for channel in image])
    return (image * deviation + mean).clamp(0, 1)


def _some_channels(
    image: Tensor, chance: Chance, change: Callable[[Tensor, Chance], Tensor]
) -> Tensor:
    """Change each channel (S, S) with probability 0.5."""
    return torch.stack(
        [change(channel, chance) if chance.happens(0.5) else channel for channel in image]
    )


def _blur(channel: Tensor, chance: Chance) -> Tensor:
    """Blur (S, S) by a Gaussian, sigma 0.5 to 1 pixels per axis, with mirrored borders."""
    for _ in range(2):
        kernel = gaussian(chance.between(0.5, 1)).to(channel)  # (2 R + 1,)
        radius = len(kernel) // 2
        rows = F.pad(channel[:, None], (radius, radius), mode="reflect")  # (S, 1, S + 2 R)
        channel = F.conv1d(rows, kernel[None, None])[:, 0].T  # (S, S), transposed
    return channel


def gaussian(sigma: float) -> Tensor:
    """Return a normalised 1D Gaussian kernel, truncated at 4 sigma (in pixels)."""
    radius = math.ceil(4 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def _contrast(channel: Tensor, chance: Chance) -> Tensor:
    """Scale the deviations of (S, S) from its mean by 0.75 to 1.25; clamp to the original range."""
    low, high = channel.aminmax()
    mean = channel.mean()
    return (mean + chance.around_one(0.75, 1.25) * (channel - mean)).clamp(low, high)


def _coarsen(channel: Tensor, chance: Chance) -> Tensor:
    """Simulate a lower resolution: downsample by 0.5 to 1 (nearest), then upsample (bilinear)."""
    scale = chance.between(0.5, 1)
    size = [round(scale * side) for side in channel.shape]
    small = F.interpolate(channel[None, None], size, mode="nearest-exact")
    return F.interpolate(small, list(channel.shape), mode="bilinear")[0, 0]


def _gamma(channel: Tensor, chance: Chance) -> Tensor:
    """Apply a gamma of 0.7 to 1.5 to (S, S), rescaled to [0, 1]; restore mean and deviation."""
    low, high = channel.aminmax()
    unit = (channel - low) / (high - low).clamp(min=1e-7)
    changed = unit ** chance.around_one(0.7, 1.5)
    deviation, mean = torch.std_mean(changed)
    original_deviation, original_mean = torch.std_mean(channel)
    return (changed - mean) / deviation.clamp(min=1e-7) * original_deviation + original_mean
