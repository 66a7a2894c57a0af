"""Changes of colour and sharpness for augmentation: of one image (3, S, S), RGB in [0, 1].

Letters: S side of the square image, C = 3 channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.chance import Chance

# ---- as in mmsegmentation --------------------------------------------------------------------


def distort(image: Tensor, chance: Chance) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    mmsegmentation's photometric distortion, after SSD (Liu et al., arXiv:1512.02325): brightness by
    up to 32 / 255, contrast and saturation by 0.5 to 1.5, hue by up to a tenth of its circle;
    contrast comes second or last.
    """
    if chance.happens(0.5):
        image = (image + chance.between(-32, 32) / 255).clamp(0, 1)
    contrast = chance.between(0.5, 1.5) if chance.happens(0.5) else 1.0
    comes_last = chance.happens(0.5)
    if not comes_last:
        image = (contrast * image).clamp(0, 1)
    hue, saturation, value = to_hsv(image)
    if chance.happens(0.5):
        saturation = (chance.between(0.5, 1.5) * saturation).clamp(0, 1)
    if chance.happens(0.5):
        hue = hue + chance.between(-0.1, 0.1)
    image = from_hsv(hue, saturation, value)
    return (contrast * image).clamp(0, 1) if comes_last else image


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give hue in turns, saturation and value, (S, S) each; hue and saturation of a grey are 0."""
    red, green, blue = image  # (S, S) each
    value, brightest = image.max(0)  # (S, S)
    range_ = value - image.amin(0)  # (S, S)
    sixths = torch.stack([green - blue, blue - red, red - green]) / range_.clamp(min=1e-8)
    sixths = sixths + sixths.new_tensor([0, 2, 4]).view(3, 1, 1)  # (3, S, S)
    hue = sixths.gather(0, brightest[None])[0] / 6 % 1  # (S, S)
    return hue, range_ / value.clamp(min=1e-8), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Give the image (3, S, S) of hue in turns, of any size, saturation and value, (S, S) each."""
    starts = hue.new_tensor([5, 3, 1]).view(3, 1, 1)
    sixths = (starts + 6 * hue) % 6  # (3, S, S)
    fall = torch.minimum(sixths, 4 - sixths).clamp(0, 1)  # (3, S, S)
    return value * (1 - saturation * fall)


# ---- as in nnU-Net ---------------------------------------------------------------------------


def intensities(image: Tensor, chance: Chance) -> Tensor:
    """Change what nnU-Net changes, with the probabilities and ranges of its version 2.

    nnU-Net works on channels of mean 0 and deviation 1. So does this: the image is brought there
    and back by its own mean and deviation, and cut to [0, 1].
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
    return torch.stack([change(each, chance) if chance.happens(0.5) else each for each in image])


def _blur(channel: Tensor, chance: Chance) -> Tensor:
    """Blur (S, S) by a Gaussian of 0.5 to 1 pixels along each axis; borders are mirrored."""
    for _ in range(2):
        kernel = gaussian(chance.between(0.5, 1)).to(channel)  # (2 R + 1,)
        reach = len(kernel) // 2
        rows = F.pad(channel[:, None], (reach, reach), mode="reflect")  # (S, 1, S + 2 R)
        channel = F.conv1d(rows, kernel[None, None])[:, 0].T  # (S, S), transposed
    return channel


def gaussian(sigma: float) -> Tensor:
    """Give a Gaussian of sum 1 over whole pixels, out to 4 sigma on each side."""
    reach = math.ceil(4 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def _contrast(channel: Tensor, chance: Chance) -> Tensor:
    """Spread (S, S) about its mean by 0.75 to 1.25, within the range that it has."""
    low, high = channel.aminmax()
    mean = channel.mean()
    return (mean + chance.around_one(0.75, 1.25) * (channel - mean)).clamp(low, high)


def _coarsen(channel: Tensor, chance: Chance) -> Tensor:
    """Simulate a resolution of 0.5 to 1 of what it is: to fewer pixels by the nearest, and back."""
    scale = chance.between(0.5, 1)
    size = [round(scale * side) for side in channel.shape]
    fewer = F.interpolate(channel[None, None], size, mode="nearest-exact")
    return F.interpolate(fewer, list(channel.shape), mode="bilinear")[0, 0]


def _gamma(channel: Tensor, chance: Chance) -> Tensor:
    """Raise (S, S), brought to [0, 1], to the power 0.7 to 1.5; mean and deviation stay."""
    low, high = channel.aminmax()
    unit = (channel - low) / (high - low).clamp(min=1e-7)
    changed = unit ** chance.around_one(0.7, 1.5)
    deviation, mean = torch.std_mean(changed)
    wanted_deviation, wanted_mean = torch.std_mean(channel)
    return (changed - mean) / deviation.clamp(min=1e-7) * wanted_deviation + wanted_mean
