"""Visualise dense features: clusters, principal components, cosine similarity to an anchor.

Features of all networks are processed in the same way, so that their figures are comparable.
Symbols: C_i channels and h_i x w_i positions of map i, C channels and h x w positions after
joining, P = h w, K clusters.
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

FITTED = 8192  # positions that clusters are fitted to; all positions are then assigned
STARTS, STEPS = 4, 50  # of k-means
ENDS = (1, 99)  # percentiles of a principal component shown as darkest and brightest


def joined(maps: Sequence[Tensor]) -> np.ndarray:
    """Join the maps of one image: (h, w, C) float32, each channel of mean 0 and deviation 1.

    All maps are resized to the middle one of their resolutions: coarser ones by bilinear
    interpolation, finer ones with antialiasing, which also removes the grid that pixel shuffling
    causes. Channels are concatenated and standardised over the image; a constant channel becomes 0.

    Args:
        maps: [(1, C_i, h_i, w_i), ...].

    Raises:
        BenchError: a value is not finite, or all channels are constant.
    """
    import torch
    from torch.nn.functional import interpolate

    sizes = sorted({tuple(features.shape[-2:]) for features in maps}, reverse=True)
    size = sizes[len(sizes) // 2]
    resized = [
        m if m.shape[-2:] == size else interpolate(m, size, mode="bilinear", antialias=True)
        for m in maps
    ]
    features = torch.cat(resized, dim=1)[0].permute(1, 2, 0).float().cpu().numpy()  # (h, w, C)
    if not np.isfinite(features).all():
        raise BenchError(
            "some features are not finite: the weights or the image may be damaged. "
            "Download them again."
        )
    mean, deviation = features.mean(axis=(0, 1)), features.std(axis=(0, 1))
    varies = deviation > 1e-6 * (1 + np.abs(mean))
    if not varies.any():
        raise BenchError("the features are the same everywhere: choose an image with content.")
    scaled = (features - mean) / np.where(varies, deviation, 1)
    return np.where(varies, scaled, 0).astype(np.float32)


def clusters(features: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return the K clusters of features by k-means, the best of `STARTS` k-means++ starts.

    Args:
        features: (h, w, C).
        count: K.
        seed: of the sample of positions and of the starts.

    Returns:
        Labels (h, w) int, 0 .. K - 1.

    Raises:
        BenchError: there are fewer than K distinct features.
    """
    positions = features.reshape(-1, features.shape[-1])  # (P, C)
    rng = np.random.default_rng(seed)
    fitted = positions[np.sort(rng.permutation(len(positions))[:FITTED])]
    if len(np.unique(fitted, axis=0)) < count:
        raise BenchError(f"there are fewer than {count} distinct features: use fewer clusters.")
    best, least = np.zeros(len(positions), dtype=int), np.inf
    for _ in range(STARTS):
        centres, _ = kmeans2(fitted, count, iter=STEPS, minit="++", rng=rng)
        labels, distances = vq(positions, centres)
        inertia = float((distances.astype(np.float64) ** 2).sum())
        if inertia < least:
            best, least = labels, inertia
    return best.reshape(features.shape[:2])


def by_darkness(labels: np.ndarray, brightness: np.ndarray, count: int) -> np.ndarray:
    """Renumber clusters from darkest to brightest: (h, w) int.

    Args:
        labels: (h, w), 0 .. K - 1.
        brightness: (h, w) of the image.
        count: K.
    """
    means = [
        brightness[labels == k].mean() if (labels == k).any() else np.inf for k in range(count)
    ]
    rank = np.argsort(np.argsort(means, kind="stable"))
    return rank[labels]


def matched(labels: np.ndarray, reference: np.ndarray, count: int) -> np.ndarray:
    """Renumber clusters for the largest one-to-one overlap with a reference: (h, w) int.

    Args:
        labels: (h, w), 0 .. K - 1.
        reference: labels of any size, sampled at the nearest positions.
        count: K.
    """
    rows, columns = (
        (np.arange(side) * 2 + 1) * reference_side // (2 * side)
        for side, reference_side in zip(labels.shape, reference.shape, strict=True)
    )
    overlap = np.zeros((count, count), dtype=np.int64)
    np.add.at(overlap, (labels, reference[np.ix_(rows, columns)]), 1)
    return linear_sum_assignment(overlap, maximize=True)[1][labels]


def components(features: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Return the first three principal components as red, green and blue: (h, w, 3) in [0, 1].

    Signs are chosen so that components increase with brightness. Components are scaled from their
    1st to their 99th percentile. Missing components are 0.5.

    Args:
        features: (h, w, C).
        brightness: (h, w) of the image.
    """
    positions = features.reshape(-1, features.shape[-1]).astype(np.float64)  # (P, C)
    positions = positions - positions.mean(axis=0)
    values, vectors = np.linalg.eigh(positions.T @ positions)  # ascending
    axes = vectors[:, ::-1][:, :3]  # (C, 3 or fewer)
    axes = axes[:, values[::-1][:3] > 1e-9 * values[-1]]
    centred = brightness.ravel() - brightness.mean()
    colours = np.full((len(positions), 3), 0.5)
    for number, component in enumerate((positions @ axes).T):
        signed = component if component @ centred >= 0 else -component
        low, high = np.percentile(signed, ENDS)
        colours[:, number] = np.clip((signed - low) / max(high - low, 1e-12), 0, 1)
    return colours.reshape(*features.shape[:2], 3)


def cosine(features: np.ndarray, anchor: tuple[int, int]) -> np.ndarray:
    """Return the cosine similarity of all features to the one at an anchor: (h, w) in [-1, 1].

    Args:
        features: (h, w, C).
        anchor: position (y, x).

    Raises:
        BenchError: the feature at the anchor is zero.
    """
    vector = features[anchor]
    lengths = np.linalg.norm(features, axis=-1) * np.linalg.norm(vector)
    if not np.linalg.norm(vector):
        raise BenchError("the feature at the anchor is zero: choose another one by --anchor X,Y.")
    return np.clip((features @ vector) / np.maximum(lengths, 1e-12), -1, 1)
