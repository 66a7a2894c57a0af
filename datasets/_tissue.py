"""Generate a field of tissue: stain concentrations and the instances of nuclei.

A field has nests of tumour in fibrous stroma, gaps, blood and lymphocytes. As in real tissue,
colour alone does not identify nuclei: mucin, smears, debris and basophilic cytoplasm also take up
haematoxylin, and vesicular nuclei take up little. Lengths are in pixels of 0.25 micrometres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial import KDTree

from ._noise import fibres, fine_noise, smooth_noise, step
from ._nuclei import LYMPHOCYTE, STROMAL, TUMOUR, Kind, Nucleus, draw, stained

CANDIDATES_PER_PX = 0.02
SMALLEST_PX = 30  # smallest visible area of a nucleus at the frame


@dataclass(frozen=True)
class Recipe:
    """Composition of a patient's tissue.

    Attributes:
        tumour: share of the area covered by tumour nests.
        cellularity: probability that a candidate position in a nest gets a nucleus.
        inflammation: density of lymphocytes in the stroma, 0 = none, 1 = packed.
        basophilia: haematoxylin in the cytoplasm of tumour cells.
        chromatin: factor on the haematoxylin of nuclei.
        size: factor on the radius of tumour nuclei.
        mucin, blood, gaps: shares of the area.
    """

    tumour: float
    cellularity: float
    inflammation: float
    basophilia: float
    chromatin: float
    size: float
    mucin: float
    blood: float
    gaps: float


@dataclass
class Tissue:
    """Stain concentrations, (side, side) float64 each, and instances, (side, side) int32."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    instances: np.ndarray


def grow(recipe: Recipe, side: int, rng: Generator) -> Tissue:
    """Generate one field of tissue, (side, side)."""
    nests = smooth_noise(rng, side, 105) + 0.4 * smooth_noise(rng, side, 40)
    depth = nests - np.quantile(nests, 1 - recipe.tumour)  # > 0 in a nest
    gaps = _gaps(recipe, depth, rng)
    angle = np.pi * (0.3 * smooth_noise(rng, side, 140) + rng.uniform())
    angle += 0.35 * smooth_noise(rng, side, 32)
    nuclei, instances = _place(recipe, depth, gaps, angle, rng)

    tissue = _stroma(angle, instances, rng)
    _add_cytoplasm(tissue, recipe, depth, nuclei, rng)
    _add_mucin(tissue, recipe, depth, rng)
    _add_smears(tissue, angle, rng)
    tissue.haematoxylin *= 1 - gaps
    tissue.eosin *= 1 - gaps
    _add_blood(tissue, recipe, rng)
    _add_nuclei(tissue, recipe, nuclei, rng)
    _add_debris(tissue, rng)
    return tissue


# ---- layout ----------------------------------------------------------------------------------


def _gaps(recipe: Recipe, depth: np.ndarray, rng: Generator) -> np.ndarray:
    """Return lumens, and clefts between nests and stroma: (side, side) in [0, 1]."""
    side = len(depth)
    field = smooth_noise(rng, side, 58) + 0.25 * smooth_noise(rng, side, 13)
    lumen = step(field - np.quantile(field, 1 - recipe.gaps), 0.04)
    opening = step(smooth_noise(rng, side, 50) - 0.8, 0.1)
    cleft = np.exp(-(((depth + 0.03) / 0.06) ** 2)) * opening
    return np.clip(lumen + cleft, 0, 1) * 0.96


def _place(
    recipe: Recipe, depth: np.ndarray, gaps: np.ndarray, angle: np.ndarray, rng: Generator
) -> tuple[list[Nucleus], np.ndarray]:
    """Place nuclei at random positions; reject those that overlap earlier ones too much.

    Returns:
        The nuclei, and instances (side, side) int32; the numbers of nuclei start at 1.
    """
    side = len(depth)
    infiltrate = step(smooth_noise(rng, side, 60) - 1.9 + 2.2 * recipe.inflammation, 0.35)
    instances = np.zeros((side, side), np.int32)
    nuclei: list[Nucleus] = []
    for row, column in rng.uniform(-6, side + 6, (int(CANDIDATES_PER_PX * side**2), 2)):
        pixel = min(max(int(row), 0), side - 1), min(max(int(column), 0), side - 1)
        kind, probability = _draw_kind(recipe, depth[pixel], infiltrate[pixel], rng)
        if rng.uniform() > probability or gaps[pixel] > 0.5 or instances[pixel]:
            continue
        turn = 0.25 * rng.standard_normal() if kind is STROMAL else rng.uniform(0, 3)
        scale = recipe.size if kind is TUMOUR else 1.0
        nucleus = draw(kind, row, column, angle[pixel] + turn, scale=scale, side=side, rng=rng)
        inside, window = nucleus.depth > 0, instances[nucleus.window]
        area, covered = int(inside.sum()), int((inside & (window > 0)).sum())
        if area >= SMALLEST_PX and covered <= kind.overlap * area:
            nuclei.append(nucleus)
            window[inside & (window == 0)] = len(nuclei)
    return nuclei, instances


def _draw_kind(
    recipe: Recipe, depth: float, infiltrate: float, rng: Generator
) -> tuple[Kind, float]:
    """Draw the kind of nucleus for a position, and return the probability that it is placed."""
    if depth > 0.06:
        return (LYMPHOCYTE, 0.04) if rng.uniform() < 0.04 else (TUMOUR, recipe.cellularity)
    if rng.uniform() < infiltrate:
        return LYMPHOCYTE, 0.16
    return STROMAL, 0.035


# ---- tissue between nuclei -------------------------------------------------------------------


def _stroma(angle: np.ndarray, instances: np.ndarray, rng: Generator) -> Tissue:
    """Return collagen: eosin in fibres along `angle`, (side, side)."""
    side = len(angle)
    grains = np.stack([fine_noise(rng, side, sigma) for sigma in (0.7, 2.2)])
    fine, bundles = fibres(grains, angle + 0.4 * smooth_noise(rng, side, 24))
    density = 0.46 + 0.13 * smooth_noise(rng, side, 60) + 0.03 * fine_noise(rng, side, 0.8)
    eosin = np.clip(density + 0.11 * fine + 0.07 * bundles, 0.05, None)
    eosin *= 1 - 0.6 * step(-bundles - 0.6 * fine - 1.9, 0.25)  # splits between bundles
    stain = np.clip(0.08 + 0.04 * fine + 0.03 * bundles, 0, None)
    return Tissue(stain, eosin, instances)


def _add_cytoplasm(
    tissue: Tissue, recipe: Recipe, depth: np.ndarray, nuclei: list[Nucleus], rng: Generator
) -> None:
    """Add granular cytoplasm, more or less basophilic, paler at the seams between cells."""
    side = len(depth)
    grains, clouds = fine_noise(rng, side, 1.1), smooth_noise(rng, side, 15)
    patches, seams = smooth_noise(rng, side, 50), _seams(nuclei, side)
    eosin = 0.40 + 0.06 * grains + 0.08 * clouds + 0.06 * patches - 0.16 * seams
    stain = recipe.basophilia * (1 + 0.28 * clouds + 0.35 * patches - 0.5 * seams) + 0.05 * grains
    nest = step(depth, 0.05)
    tissue.eosin += nest * (np.clip(eosin, 0.04, None) - tissue.eosin)
    tissue.haematoxylin += nest * (np.clip(stain, 0, None) - tissue.haematoxylin)


def _seams(nuclei: list[Nucleus], side: int) -> np.ndarray:
    """Return lines halfway between neighbouring nuclei, (side, side) in [0, 1]."""
    if len(nuclei) < 2:
        return np.zeros((side, side))
    pixels = np.indices((side // 2, side // 2)).reshape(2, -1).T * 2.0
    distances, _ = KDTree([(nucleus.row, nucleus.column) for nucleus in nuclei]).query(pixels, k=2)
    distances = np.asarray(distances).reshape(side // 2, side // 2, 2)
    lines = np.exp(-(((distances[..., 1] - distances[..., 0]) / 2.6) ** 2))
    return np.asarray(ndimage.zoom(lines, 2, order=1))


def _add_mucin(tissue: Tissue, recipe: Recipe, depth: np.ndarray, rng: Generator) -> None:
    """Add bluish ground substance that hides the fibres."""
    side = len(depth)
    field = smooth_noise(rng, side, 46) + 0.3 * smooth_noise(rng, side, 12)
    pool = step(field - np.quantile(field, 1 - recipe.mucin), 0.2)
    stain = 0.42 + 0.14 * smooth_noise(rng, side, 9) + 0.05 * fine_noise(rng, side, 1.4)
    tissue.haematoxylin += pool * (np.clip(stain, 0.1, None) - 0.3 * tissue.haematoxylin)
    tissue.eosin *= 1 - 0.6 * pool


def _add_smears(tissue: Tissue, angle: np.ndarray, rng: Generator) -> None:
    """Add crushed or out-of-focus nuclei: dark, elongated, without an edge, and not labelled."""
    side = len(angle)
    for _ in range(rng.integers(2, 8)):
        row, column = rng.uniform(0, side, 2)
        direction = angle[int(row), int(column)] + 0.3 * rng.standard_normal()
        long, short = rng.uniform(8, 26), rng.uniform(4, 8)
        rows, columns = np.indices((side, side)) - np.array([row, column])[:, None, None]
        along = (columns * np.cos(direction) + rows * np.sin(direction)) / long
        across = (rows * np.cos(direction) - columns * np.sin(direction)) / short
        blot = np.exp(-(along**2) - across**2)
        tissue.haematoxylin += rng.uniform(0.3, 0.85) * blot


def _add_blood(tissue: Tissue, recipe: Recipe, rng: Generator) -> None:
    """Add a loose cluster of red blood cells: eosin only, paler in the middle."""
    side = len(tissue.eosin)
    count = rng.poisson(recipe.blood * side**2 / 200)
    if not count:
        return
    centre = rng.uniform(20, side - 20, 2)
    for row, column in centre + rng.standard_normal((count, 2)) * (6 + 2.2 * np.sqrt(count)):
        radius = rng.uniform(6.5, 8.5)
        top, left = max(0, int(row) - 12), max(0, int(column) - 12)
        window = slice(top, max(0, int(row) + 12)), slice(left, max(0, int(column) + 12))
        rows, columns = np.ogrid[window]
        distance = np.hypot(rows - row, (columns - column) * rng.uniform(0.85, 1.15)) / radius
        distance = distance[: side - top, : side - left]
        disc = step(1 - distance, 0.07)
        tissue.eosin[window] += disc * (0.85 + 0.25 * distance**2 - 0.75 * tissue.eosin[window])
        tissue.haematoxylin[window] *= 1 - 0.9 * disc


# ---- nuclei and debris -----------------------------------------------------------------------


def _add_nuclei(tissue: Tissue, recipe: Recipe, nuclei: list[Nucleus], rng: Generator) -> None:
    side = len(tissue.eosin)
    grain = np.stack([fine_noise(rng, side, 1.7), fine_noise(rng, side, 0.8)])
    patchy = smooth_noise(rng, side, 12)
    for nucleus in nuclei:
        stain, cover = stained(nucleus, recipe.chromatin, grain, rng)
        window = nucleus.window
        shrinkage = rng.choice([0.0, 0.0, 0.4, 0.8]) * np.clip(0.6 + 0.6 * patchy[window], 0, 1)
        halo = shrinkage * np.exp(-(((nucleus.depth + 1.6) / 1.2) ** 2))
        tissue.haematoxylin[window] *= 1 - halo * (nucleus.depth < 0)
        tissue.eosin[window] *= 1 - halo * (nucleus.depth < 0)
        tissue.haematoxylin[window] = tissue.haematoxylin[window] * (1 - 0.75 * cover) + stain
        tissue.eosin[window] *= 1 - (1 - nucleus.kind.eosin) * cover


def _add_debris(tissue: Tissue, rng: Generator) -> None:
    """Add fragments of dead cells and precipitate: small and as dark as a nucleus."""
    side = len(tissue.eosin)
    specks = np.zeros((side, side))
    for row, column in rng.uniform(0, side, (rng.integers(2, 7), 2)):
        for _ in range(rng.integers(1, 6)):
            position = np.array([row, column]) + 4 * rng.standard_normal(2)
            r, c = np.clip(position, 0, side - 1).astype(int)
            specks[r : r + rng.integers(1, 4), c : c + rng.integers(1, 4)] += rng.uniform(1, 9)
    tissue.haematoxylin += np.minimum(ndimage.gaussian_filter(specks, 1.1), 1.5)
