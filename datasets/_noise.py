"""Random textures with a chosen grain size."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import ndimage

STRIDE_PX, STRIDES = 1.4, 7  # step length along a fibre, and steps in each direction


def smooth_noise(rng: Generator, side: int, period_px: float) -> np.ndarray:
    """Return smooth noise with zero mean and about unit deviation: (side, side).

    Cubic B-splines over random knots that are `period_px` apart. The sums are written out because
    the last bit of a matrix product may differ between machines.
    """
    knots = rng.standard_normal((int(side / period_px) + 5, int(side / period_px) + 5))
    rows = np.zeros((side, len(knots)))
    for index, weight in _spline(rng, side, period_px):
        rows += weight[:, None] * knots[index]
    field = np.zeros((side, side))
    for index, weight in _spline(rng, side, period_px):
        field += weight * rows[:, index]
    return 2.09 * field  # the deviation of such a spline is 0.479


def _spline(rng: Generator, side: int, period_px: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return indices and weights, (side,) each, of the four knots nearest to each pixel."""
    position = np.arange(side) / period_px + rng.uniform()
    knot = position.astype(np.intp)
    t = position - knot
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
    return [(knot + offset, weight / 6) for offset, weight in enumerate(weights)]


def fine_noise(rng: Generator, side: int, sigma_px: float) -> np.ndarray:
    """Return periodic noise of zero mean and unit deviation, with grains of `sigma_px`."""
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma_px, mode="wrap")
    return noise * (2 * sigma_px * np.sqrt(np.pi))


def fibres(noise: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Average noise (K, side, side) along a field of angles: (K, side, side), unit deviation.

    Line integral convolution (Cabral and Leedom 1993).

    Args:
        noise: (K, side, side).
        angle: (side, side) direction of the fibres in radians.
    """
    side = len(angle)
    along = STRIDE_PX * np.stack([np.sin(angle), np.cos(angle)]).reshape(2, -1)
    grains = noise.reshape(len(noise), -1)
    total = grains.copy()
    for direction in (-1.0, 1.0):
        position = np.indices((side, side)).reshape(2, -1) + 0.5
        pixel = np.arange(side * side)
        for _ in range(STRIDES):
            position += direction * along.take(pixel, axis=1)
            rows, columns = position.astype(np.intp) % side
            pixel = rows * side + columns
            total += grains.take(pixel, axis=1)
    return (total / total.std(axis=1, keepdims=True)).reshape(noise.shape)


def step(values: np.ndarray, width: float) -> np.ndarray:
    """Return the logistic function of values / width."""
    return 1 / (1 + np.exp(-np.clip(values / width, -30, 30)))
