"""Random textures of a given grain, all from a generator that is passed in."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import ndimage

STRIDE_PX, STRIDES = 1.4, 7  # of a fibre, to either side


def smooth_noise(rng: Generator, side: int, period_px: float) -> np.ndarray:
    """Zero mean, about unit deviation, varying over `period_px`: (side, side).

    Cubic B-splines over random knots; written out, because a matrix product may differ in its last
    bit between machines.
    """
    knots = rng.standard_normal((int(side / period_px) + 5, int(side / period_px) + 5))
    rows = np.zeros((side, len(knots)))
    for place, weight in _spline(rng, side, period_px):
        rows += weight[:, None] * knots[place]
    field = np.zeros((side, side))
    for place, weight in _spline(rng, side, period_px):
        field += weight * rows[:, place]
    return 2.09 * field  # the deviation of such a spline is 0.479


def _spline(rng: Generator, side: int, period_px: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of the four knots next to a pixel: their numbers and their weights, (side,) each."""
    at = np.arange(side) / period_px + rng.uniform()
    knot = at.astype(np.intp)
    t = at - knot
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
    return [(knot + place, weight / 6) for place, weight in enumerate(weights)]


def fine_noise(rng: Generator, side: int, sigma_px: float) -> np.ndarray:
    """Zero mean, unit deviation, with grains of `sigma_px`: (side, side), periodic."""
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma_px, mode="wrap")
    return noise * (2 * sigma_px * np.sqrt(np.pi))


def drawn_out(noise: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Average noise (K, side, side) along the lines of a field of angles: fibres of unit deviation.

    Line integral convolution (Cabral and Leedom 1993).
    """
    side = len(angle)
    along = STRIDE_PX * np.stack([np.sin(angle), np.cos(angle)]).reshape(2, -1)
    grains = noise.reshape(len(noise), -1)
    total = grains.copy()
    for way in (-1.0, 1.0):
        at = np.indices((side, side)).reshape(2, -1) + 0.5
        here = np.arange(side * side)
        for _ in range(STRIDES):
            at += way * along.take(here, axis=1)
            rows, columns = at.astype(np.intp) % side
            here = rows * side + columns
            total += grains.take(here, axis=1)
    return (total / total.std(axis=1, keepdims=True)).reshape(noise.shape)


def step(values: np.ndarray, width: float) -> np.ndarray:
    """Rise softly from 0 to 1 where values pass 0."""
    return 1 / (1 + np.exp(-np.clip(values / width, -30, 30)))
