"""Dense features as pictures: clusters, principal components, likeness to one place.

Features are handled alike whatever network they are from, so that its pictures can be compared.
Letters: C_i, h_i, w_i of each map; C their sum, h and w of the joined one; P = h w; K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.vq import kmeans2, vq
from scipy.optimize import linear_sum_assignment

from bench.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

FITTED = 8192  # places that clusters are fitted to; all places are then assigned
STARTS, STEPS = 4, 50  # of k-means
ENDS = (1, 99)  # percentiles of a principal component that are shown as darkest and brightest


def joined(maps: Sequence[Tensor]) -> np.ndarray:
    """Join the maps of one image: (h, w, C) float32, each channel of mean 0 and deviation 1.

    Of several maps the middle one of the resolutions is common to all: coarser maps are brought to
    it by bilinear interpolation, finer ones by averaging (antialiased), which also takes away the
    grid that pixel shuffling leaves in them. A single map keeps its own. Then every channel is
    standardised over the image, so that none outweighs another by its scale; then the channels are
    concatenated. A channel that is the same everywhere becomes 0.

    Args:
        maps: [(1, C_i, h_i, w_i), ...].

    Raises:
        BenchError: a value is not finite, or every channel is the same everywhere.
    """
    import torch
    from torch.nn.functional import interpolate

    sizes = sorted({tuple(each.shape[-2:]) for each in maps}, reverse=True)
    size = sizes[len(sizes) // 2]
    same = [
        m if m.shape[-2:] == size else interpolate(m, size, mode="bilinear", antialias=True)
        for m in maps
    ]
    features = torch.cat(same, dim=1)[0].permute(1, 2, 0).float().cpu().numpy()  # (h, w, C)
    if not np.isfinite(features).all():
        raise BenchError("some features are not finite: the weights or the picture are damaged.")
    mean, deviation = features.mean(axis=(0, 1)), features.std(axis=(0, 1))
    told = deviation > 1e-6 * (1 + np.abs(mean))
    if not told.any():
        raise BenchError(
            "the features are the same everywhere, so there is nothing to show: give a picture "
            "with something in it."
        )
    return np.where(told, (features - mean) / np.where(told, deviation, 1), 0).astype(np.float32)


def clusters(features: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Find K clusters by k-means: (h, w) int, of the best of several seeded starts (k-means++).

    Raises:
        BenchError: there are not K different features.
    """
    places = features.reshape(-1, features.shape[-1])  # (P, C)
    rng = np.random.default_rng(seed)
    fitted = places[np.sort(rng.permutation(len(places))[:FITTED])]
    if len(np.unique(fitted, axis=0)) < count:
        raise BenchError(
            f"there are fewer than {count} different features: ask for fewer clusters."
        )
    best: tuple[float, np.ndarray] | None = None
    for _ in range(STARTS):
        start = _spread(fitted, count, rng)
        centres, _ = kmeans2(fitted, start, iter=STEPS, minit="matrix")
        labels, distances = vq(places, centres)
        inertia = float((distances.astype(np.float64) ** 2).sum())
        if best is None or inertia < best[0]:
            best = inertia, labels
    assert best is not None
    return best[1].reshape(features.shape[:2])


def _spread(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw K starts far from each other (Arthur and Vassilvitskii, k-means++, 2007): (K, C)."""
    chosen = [places[rng.integers(len(places))]]
    nearest = np.full(len(places), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((places - chosen[-1]) ** 2).sum(axis=1, dtype=np.float64))
        chosen.append(places[rng.choice(len(places), p=nearest / nearest.sum())])
    return np.stack(chosen)


def by_darkness(labels: np.ndarray, brightness: np.ndarray, count: int) -> np.ndarray:
    """Number clusters from the darkest places of the image to the brightest: (h, w) int.

    Args:
        labels: (h, w), 0 .. K - 1.
        brightness: (h, w) of the image.
    """
    means = [
        brightness[labels == k].mean() if (labels == k).any() else np.inf for k in range(count)
    ]
    rank = np.argsort(np.argsort(means, kind="stable"))
    return rank[labels]


def matched(labels: np.ndarray, reference: np.ndarray, count: int) -> np.ndarray:
    """Renumber clusters so that they overlap those of a reference most, one to one: (h, w) int.

    Args:
        labels: (h, w), 0 .. K - 1.
        reference: of another size too; it is read at the nearest places.
    """
    rows, columns = (
        (np.arange(mine) * 2 + 1) * theirs // (2 * mine)
        for mine, theirs in zip(labels.shape, reference.shape, strict=True)
    )
    there = reference[np.ix_(rows, columns)]
    overlap = np.zeros((count, count), dtype=np.int64)
    np.add.at(overlap, (labels, there), 1)
    return linear_sum_assignment(overlap, maximize=True)[1][labels]


def components(features: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Show the first three principal components as red, green and blue: (h, w, 3) in [0, 1].

    Each grows with the brightness of the image, since its sign means nothing, and runs from its 1st
    to its 99th percentile. Where there are fewer than three, the rest are even grey.

    Args:
        brightness: (h, w) of the image.
    """
    places = features.reshape(-1, features.shape[-1]).astype(np.float64)  # (P, C)
    places = places - places.mean(axis=0)
    values, vectors = np.linalg.eigh(places.T @ places)  # rising
    own = vectors[:, ::-1][:, :3]  # (C, 3 or fewer)
    own = own[:, values[::-1][:3] > 1e-9 * values[-1]]
    light = brightness.ravel() - brightness.mean()
    shown = np.full((len(places), 3), 0.5)
    for number, component in enumerate((places @ own).T):
        turned = component if component @ light >= 0 else -component
        low, high = np.percentile(turned, ENDS)
        shown[:, number] = np.clip((turned - low) / max(high - low, 1e-12), 0, 1)
    return shown.reshape(*features.shape[:2], 3)


def likeness(features: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Give the cosine of the angle between each feature and that of one place: (h, w) in [-1, 1].

    Raises:
        BenchError: the feature of the place is zero.
    """
    anchor = features[place]
    lengths = np.linalg.norm(features, axis=-1) * np.linalg.norm(anchor)
    if not np.linalg.norm(anchor):
        raise BenchError("the feature at the anchor is zero: choose another one by --anchor X,Y.")
    return np.clip((features @ anchor) / np.maximum(lengths, 1e-12), -1, 1)
