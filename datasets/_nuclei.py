"""Shape and stain of three kinds of nuclei.

An outline is an ellipse whose radius is perturbed by a few Fourier terms. Lengths are in pixels of
0.25 micrometres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

EDGE_PX = 1.1  # width over which a nucleus fades into its surroundings
TERMS = np.arange(2, 7)


@dataclass(frozen=True)
class Kind:
    """One kind of nucleus.

    Attributes:
        radius_px: mean and relative spread of the mean radius.
        stretch: range of the ratio of long to short axis.
        ragged: amplitude of the Fourier terms.
        overlap: largest share of a nucleus that may overlap others.
        body, rim, clumps: haematoxylin of the inside, of the membrane, and of chromatin clumps.
        nucleoli: largest number of nucleoli.
        eosin: share of the eosin below that remains visible.
    """

    radius_px: tuple[float, float]
    stretch: tuple[float, float]
    ragged: float
    overlap: float
    body: tuple[float, float]
    rim: float
    clumps: float
    nucleoli: int
    eosin: float


# fmt: off
#                  radius_px     stretch     ragged overlap body      rim, clumps, nucleoli, eosin
TUMOUR     = Kind((12.0, 0.18), (1.05, 1.85), 0.07, 0.12, (0.04, 0.42), 0.42, 0.22, 3, 0.35)
LYMPHOCYTE = Kind((7.4, 0.12),  (1.0, 1.4),   0.06, 0.14, (0.55, 1.30), 0.25, 0.30, 0, 0.30)
STROMAL    = Kind((6.2, 0.22),  (2.2, 5.2),   0.08, 0.06, (0.30, 0.95), 0.20, 0.20, 0, 0.50)
# fmt: on


@dataclass(frozen=True)
class Nucleus:
    """A nucleus placed in the field: a window, and the depth below the outline in it, in px."""

    kind: Kind
    row: float
    column: float
    top: int
    left: int
    depth: np.ndarray  # (h, w), > 0 inside

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the field that `depth` covers."""
        height, width = self.depth.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def draw(
    kind: Kind, row: float, column: float, angle: float, *, scale: float, side: int, rng: Generator
) -> Nucleus:
    """Draw a random nucleus with its centre at (row, column) of a field of (side, side).

    Args:
        kind: the distribution of size and shape.
        row, column: the centre, in pixels.
        angle: direction of the long axis, in radians.
        scale: factor on the radius.
        side: of the field, in pixels.
        rng: source of randomness.
    """
    radius = kind.radius_px[0] * scale * np.exp(kind.radius_px[1] * rng.standard_normal())
    stretch = np.sqrt(rng.uniform(*kind.stretch))
    long, short = radius * stretch, radius / stretch
    sizes, starts = rng.standard_normal(len(TERMS)), rng.uniform(0, 2 * np.pi, len(TERMS))
    reach = int(np.ceil(long * (1 + 4 * kind.ragged))) + 3
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    rows = np.arange(top, min(side, int(row) + reach + 1))[:, None] - row
    columns = np.arange(left, min(side, int(column) + reach + 1))[None, :] - column
    along = (columns * np.cos(angle) + rows * np.sin(angle)) / long
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / short
    turn = np.arctan2(across, along)
    edge = np.ones_like(turn)
    for term, size, start in zip(TERMS, sizes, starts, strict=True):
        edge += kind.ragged * size * (2 / term) * np.cos(term * turn + start)
    depth = (edge - np.hypot(along, across)) * np.sqrt(long * short)
    return Nucleus(kind, row, column, top, left, depth)


def stained(
    nucleus: Nucleus, chromatin: float, grain: np.ndarray, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the haematoxylin of a nucleus and its opacity, (h, w) each.

    Args:
        nucleus: the nucleus, (h, w).
        chromatin: factor on the body stain, by patient.
        grain: (2, side, side) coarse and fine noise, cropped at a random position.
        rng: source of randomness.
    """
    kind, depth = nucleus.kind, nucleus.depth
    height, width = depth.shape
    top, left = rng.integers(0, grain.shape[1] - max(height, width), 2)
    coarse, fine = grain[:, top : top + height, left : left + width]
    crisp = rng.uniform(0.35, 1.25)
    stain = rng.uniform(*kind.body) * chromatin
    stain = stain + kind.rim * crisp * np.exp(-(((depth - 0.9) / 1.5) ** 2))
    stain += kind.clumps * crisp * (1.25 * np.clip(coarse - 0.3, 0, 2) + 0.5 * fine)
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        stain += _nucleolus(depth, rng)
    cover = np.clip(depth / EDGE_PX + 0.5, 0, 1)
    return np.clip(stain, 0.05, None) * cover, cover


def _nucleolus(depth: np.ndarray, rng: Generator) -> np.ndarray:
    """Return the haematoxylin of a nucleolus at a random position at least 4 px inside, (h, w)."""
    positions = np.argwhere(depth > 4)
    size, strength = rng.uniform(1.3, 2.6), rng.uniform(0.25, 0.75)
    if not len(positions):
        return np.zeros_like(depth)
    row, column = positions[rng.integers(len(positions))]
    rows, columns = np.indices(depth.shape)
    return strength * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
