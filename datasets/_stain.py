"""Render stain concentrations as an RGB image.

By the Beer-Lambert law, stains add in optical density (Ruifrok and Johnston 2001). Stain colours
and strengths differ between laboratories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from ._noise import smooth_noise


@dataclass(frozen=True)
class Stain:
    """One laboratory and scanner.

    Attributes:
        haematoxylin, eosin: optical density of a unit of stain in red, green and blue, (3,).
        white: RGB of the empty slide in 0..255, (3,).
        blur_px: sigma of the optical blur.
        noise: standard deviation of the camera noise, in 0..255.
    """

    haematoxylin: np.ndarray  # (3,)
    eosin: np.ndarray  # (3,)
    white: np.ndarray  # (3,)
    blur_px: float
    noise: float


def photograph(
    haematoxylin: np.ndarray, eosin: np.ndarray, stain: Stain, rng: Generator
) -> np.ndarray:
    """Render concentrations, (side, side) each, as (side, side, 3) uint8 RGB."""
    side = len(eosin)
    light = 1 + 0.015 * smooth_noise(rng, side, 150)
    thickness = 1 + 0.05 * smooth_noise(rng, side, 80)
    shot = rng.standard_normal((side, side, 3))
    channels = []
    for channel in range(3):
        density = stain.haematoxylin[channel] * haematoxylin + stain.eosin[channel] * eosin
        transmitted = np.exp(-density * thickness) * light
        transmitted = ndimage.gaussian_filter(transmitted, stain.blur_px)
        grain = stain.noise * ndimage.gaussian_filter(shot[..., channel], 0.45)
        channels.append(stain.white[channel] * transmitted + 1.6 * grain)
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
