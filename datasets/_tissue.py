"""Grow a field of tissue: where the stains lie, and which pixel belongs to which nucleus.

Nests of tumour lie in fibrous stroma, with gaps, blood and lymphocytes. Much that takes up
haematoxylin is no nucleus (mucin, smears, debris, basophilic cytoplasm), and vesicular nuclei take
up little: as in real tissue, colour alone does not tell nuclei. Lengths are pixels of 0.25
micrometres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial import KDTree

from ._noise import drawn_out, fine_noise, smooth_noise, step
from ._nuclei import LYMPHOCYTE, STROMAL, TUMOUR, Kind, Nucleus, draw, stained

CANDIDATES_PER_PX = 0.02
SMALLEST_PX = 30  # what is left of a nucleus at the frame or under others


@dataclass(frozen=True)
class Recipe:
    """What one patient's tissue is made of.

    Attributes:
        tumour: share of the area that nests of tumour cover.
        cellularity: share of the places for tumour nuclei that are taken.
        inflammation: lymphocytes in the stroma, 0 = none, 1 = packed.
        basophilia: haematoxylin in the cytoplasm of tumour cells.
        chromatin: factor on the haematoxylin of nuclei.
        size: factor on the radius of tumour nuclei.
        mucin, blood, gaps: share of the area.
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
    """Grow one field of tissue, (side, side)."""
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


# ---- where things lie ------------------------------------------------------------------------


def _gaps(recipe: Recipe, depth: np.ndarray, rng: Generator) -> np.ndarray:
    """Lumens, and clefts where nests shrank from the stroma: (side, side) in [0, 1]."""
    side = len(depth)
    field = smooth_noise(rng, side, 58) + 0.25 * smooth_noise(rng, side, 13)
    lumen = step(field - np.quantile(field, 1 - recipe.gaps), 0.04)
    open_here = step(smooth_noise(rng, side, 50) - 0.8, 0.1)
    cleft = np.exp(-(((depth + 0.03) / 0.06) ** 2)) * open_here
    return np.clip(lumen + cleft, 0, 1) * 0.96


def _place(
    recipe: Recipe, depth: np.ndarray, gaps: np.ndarray, angle: np.ndarray, rng: Generator
) -> tuple[list[Nucleus], np.ndarray]:
    """Throw nuclei until no more are wanted; each keeps off the others, but for a small overlap."""
    side = len(depth)
    infiltrate = step(smooth_noise(rng, side, 60) - 1.9 + 2.2 * recipe.inflammation, 0.35)
    instances = np.zeros((side, side), np.int32)
    nuclei: list[Nucleus] = []
    for row, column in rng.uniform(-6, side + 6, (int(CANDIDATES_PER_PX * side**2), 2)):
        here = min(max(int(row), 0), side - 1), min(max(int(column), 0), side - 1)
        kind, chance = _wanted(recipe, depth[here], infiltrate[here], rng)
        if rng.uniform() > chance or gaps[here] > 0.5 or instances[here]:
            continue
        lie = angle[here] + (0.25 * rng.standard_normal() if kind is STROMAL else rng.uniform(0, 3))
        scale = recipe.size if kind is TUMOUR else 1.0
        nucleus = draw(kind, row, column, lie, scale=scale, side=side, rng=rng)
        inside, taken = nucleus.depth > 0, instances[nucleus.window]
        area, covered = int(inside.sum()), int((inside & (taken > 0)).sum())
        if area >= SMALLEST_PX and covered <= kind.overlap * area:
            nuclei.append(nucleus)
            taken[inside & (taken == 0)] = len(nuclei)
    return nuclei, instances


def _wanted(recipe: Recipe, depth: float, infiltrate: float, rng: Generator) -> tuple[Kind, float]:
    """Draw the kind of nucleus that a place wants, and the chance that it gets one."""
    if depth > 0.06:
        return (LYMPHOCYTE, 0.04) if rng.uniform() < 0.04 else (TUMOUR, recipe.cellularity)
    if rng.uniform() < infiltrate:
        return LYMPHOCYTE, 0.16
    return STROMAL, 0.035


# ---- what lies between nuclei ----------------------------------------------------------------


def _stroma(angle: np.ndarray, instances: np.ndarray, rng: Generator) -> Tissue:
    """Collagen: eosin drawn out along the direction of the fibres."""
    side = len(angle)
    grains = np.stack([fine_noise(rng, side, sigma) for sigma in (0.7, 2.2)])
    fibres, bundles = drawn_out(grains, angle + 0.4 * smooth_noise(rng, side, 24))
    dense = 0.46 + 0.13 * smooth_noise(rng, side, 60) + 0.03 * fine_noise(rng, side, 0.8)
    eosin = np.clip(dense + 0.11 * fibres + 0.07 * bundles, 0.05, None)
    eosin *= 1 - 0.6 * step(-bundles - 0.6 * fibres - 1.9, 0.25)  # splits between bundles
    stain = np.clip(0.08 + 0.04 * fibres + 0.03 * bundles, 0, None)
    return Tissue(stain, eosin, instances)


def _add_cytoplasm(
    tissue: Tissue, recipe: Recipe, depth: np.ndarray, nuclei: list[Nucleus], rng: Generator
) -> None:
    """Granular cytoplasm, more or less basophilic, paler at the seams between cells."""
    side = len(depth)
    grains, clouds = fine_noise(rng, side, 1.1), smooth_noise(rng, side, 15)
    patches, seams = smooth_noise(rng, side, 50), _seams(nuclei, side)
    eosin = 0.40 + 0.06 * grains + 0.08 * clouds + 0.06 * patches - 0.16 * seams
    stain = recipe.basophilia * (1 + 0.28 * clouds + 0.35 * patches - 0.5 * seams) + 0.05 * grains
    nest = step(depth, 0.05)
    tissue.eosin += nest * (np.clip(eosin, 0.04, None) - tissue.eosin)
    tissue.haematoxylin += nest * (np.clip(stain, 0, None) - tissue.haematoxylin)


def _seams(nuclei: list[Nucleus], side: int) -> np.ndarray:
    """Lines half way between neighbouring nuclei, (side, side) in [0, 1]."""
    if len(nuclei) < 2:
        return np.zeros((side, side))
    half = np.indices((side // 2, side // 2)).reshape(2, -1).T * 2.0
    near, _ = KDTree([(each.row, each.column) for each in nuclei]).query(half, k=2)
    near = np.asarray(near).reshape(side // 2, side // 2, 2)
    lines = np.exp(-(((near[..., 1] - near[..., 0]) / 2.6) ** 2))
    return np.asarray(ndimage.zoom(lines, 2, order=1))


def _add_mucin(tissue: Tissue, recipe: Recipe, depth: np.ndarray, rng: Generator) -> None:
    """Bluish ground substance that washes out the fibres."""
    side = len(depth)
    field = smooth_noise(rng, side, 46) + 0.3 * smooth_noise(rng, side, 12)
    pool = step(field - np.quantile(field, 1 - recipe.mucin), 0.2)
    stain = 0.42 + 0.14 * smooth_noise(rng, side, 9) + 0.05 * fine_noise(rng, side, 1.4)
    tissue.haematoxylin += pool * (np.clip(stain, 0.1, None) - 0.3 * tissue.haematoxylin)
    tissue.eosin *= 1 - 0.6 * pool


def _add_smears(tissue: Tissue, angle: np.ndarray, rng: Generator) -> None:
    """Crushed or unfocused nuclei: dark, without an edge, drawn out; no annotator outlines them."""
    side = len(angle)
    for _ in range(rng.integers(2, 8)):
        row, column = rng.uniform(0, side, 2)
        lie = angle[int(row), int(column)] + 0.3 * rng.standard_normal()
        long, short = rng.uniform(8, 26), rng.uniform(4, 8)
        rows, columns = np.indices((side, side)) - np.array([row, column])[:, None, None]
        along = (columns * np.cos(lie) + rows * np.sin(lie)) / long
        across = (rows * np.cos(lie) - columns * np.sin(lie)) / short
        blot = np.exp(-(along**2) - across**2)
        tissue.haematoxylin += rng.uniform(0.3, 0.85) * blot


def _add_blood(tissue: Tissue, recipe: Recipe, rng: Generator) -> None:
    """Red cells in loose heaps: eosin alone, paler in the middle."""
    side = len(tissue.eosin)
    wanted = rng.poisson(recipe.blood * side**2 / 200)
    if not wanted:
        return
    heap = rng.uniform(20, side - 20, 2)
    for row, column in heap + rng.standard_normal((wanted, 2)) * (6 + 2.2 * np.sqrt(wanted)):
        radius = rng.uniform(6.5, 8.5)
        top, left = max(0, int(row) - 12), max(0, int(column) - 12)
        here = slice(top, max(0, int(row) + 12)), slice(left, max(0, int(column) + 12))
        rows, columns = np.ogrid[here]
        far = np.hypot(rows - row, (columns - column) * rng.uniform(0.85, 1.15)) / radius
        far = far[: side - top, : side - left]
        disc = step(1 - far, 0.07)
        tissue.eosin[here] += disc * (0.85 + 0.25 * far**2 - 0.75 * tissue.eosin[here])
        tissue.haematoxylin[here] *= 1 - 0.9 * disc


# ---- nuclei and what looks like them ---------------------------------------------------------


def _add_nuclei(tissue: Tissue, recipe: Recipe, nuclei: list[Nucleus], rng: Generator) -> None:
    side = len(tissue.eosin)
    grain = np.stack([fine_noise(rng, side, 1.7), fine_noise(rng, side, 0.8)])
    patchy = smooth_noise(rng, side, 12)
    for nucleus in nuclei:
        stain, cover = stained(nucleus, recipe.chromatin, grain, rng)
        here = nucleus.window
        shrunk = rng.choice([0.0, 0.0, 0.4, 0.8]) * np.clip(0.6 + 0.6 * patchy[here], 0, 1)
        halo = shrunk * np.exp(-(((nucleus.depth + 1.6) / 1.2) ** 2))
        tissue.haematoxylin[here] *= 1 - halo * (nucleus.depth < 0)
        tissue.eosin[here] *= 1 - halo * (nucleus.depth < 0)
        tissue.haematoxylin[here] = tissue.haematoxylin[here] * (1 - 0.75 * cover) + stain
        tissue.eosin[here] *= 1 - (1 - nucleus.kind.eosin) * cover


def _add_debris(tissue: Tissue, rng: Generator) -> None:
    """Fragments of dead cells and precipitate: small, as dark as any nucleus."""
    side = len(tissue.eosin)
    specks = np.zeros((side, side))
    for row, column in rng.uniform(0, side, (rng.integers(2, 7), 2)):
        for _ in range(rng.integers(1, 6)):
            place = np.array([row, column]) + 4 * rng.standard_normal(2)
            r, c = np.clip(place, 0, side - 1).astype(int)
            specks[r : r + rng.integers(1, 4), c : c + rng.integers(1, 4)] += rng.uniform(1, 9)
    tissue.haematoxylin += np.minimum(ndimage.gaussian_filter(specks, 1.1), 1.5)
