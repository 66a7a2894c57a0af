"""Random pixels of a training set with their features, for the linear probe.

Symbols: n pixels, D channels of all maps, C channels of one map.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.api.seeds import generator_of
from bench.features.bank import FeatureBank
from bench.training.fit import Patch, TrainingSet

PIXELS = 4_000  # per patch
MOST_PIXELS = 160_000  # of all patches


@dataclass(frozen=True)
class Level:
    """The features of sampled pixels in one map.

    Attributes:
        positions: the pixels, or the positions of the map that they are interpolated from,
            (m, C) float32.
        corners: the four positions around each pixel, (4, n); None if the positions are the pixels.
        weights: their bilinear weights, (4, n) float32.
    """

    positions: Tensor
    corners: Tensor | None = None
    weights: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The features, (n, C)."""
        if self.corners is None or self.weights is None:
            return self.positions
        features = self.positions.new_zeros(self.corners.shape[1], self.positions.shape[1])
        for corner, weight in zip(self.corners, self.weights, strict=True):
            features += self.positions[corner] * weight[:, None]
        return features

    def project(self, weight: Tensor) -> Tensor:
        """Return features @ weight, (n,), for a weight (C,)."""
        values = self.positions @ weight  # (m,)
        if self.corners is None or self.weights is None:
            return values
        return (values[self.corners] * self.weights).sum(0)


@dataclass(frozen=True)
class Block:
    """The sampled pixels of the images of a fold.

    Attributes:
        levels: standardised features of all maps.
        target: (n,) float64, 1 for nuclei.
        sizes: number of pixels of each image.
    """

    levels: Sequence[Level]
    target: Tensor
    sizes: Sequence[int]

    @property
    def features(self) -> Tensor:
        """The features of all maps, (n, D)."""
        return torch.cat([level.features for level in self.levels], dim=1)

    def margin(self, weight: Tensor) -> Tensor:
        """Return features @ weight, (n,), for a weight (D,)."""
        weights = weight.split([level.positions.shape[1] for level in self.levels])
        parts = [level.project(w) for level, w in zip(self.levels, weights, strict=True)]
        return torch.stack(parts).sum(0)


def sampled_blocks(
    lesson: TrainingSet, fold_of: Mapping[str, int], seed: int
) -> tuple[list[Block], Tensor, Tensor]:
    """Sample pixels of every patch, and standardise their features over all of them.

    Returns:
        One block per fold, and the mean and deviation of every channel, (D,) float64.
    """
    pixels = min(PIXELS, max(1, MOST_PIXELS // len(lesson.patches)), lesson.targets[0].numel())
    parts: dict[int, list[Block]] = defaultdict(list)
    moments = []
    for patch, target in zip(lesson.patches, lesson.targets, strict=True):
        block = _sample(lesson.bank, patch, target, pixels, seed)
        features = block.features.double()
        moments.append(torch.stack([features.mean(0), features.var(0, correction=0)]))
        parts[fold_of[patch[0]]].append(block)
    means, variances = torch.stack(moments, dim=1)  # (patches, D) each, of equally many pixels
    mean = means.mean(0)
    deviation = (variances.mean(0) + means.var(0, correction=0)).sqrt()
    deviation[deviation <= 1e-6 * mean.abs()] = 1.0  # constant channels
    images = {
        fold: Counter(image for image, _ in lesson.patches if fold_of[image] == fold)
        for fold in parts
    }
    blocks = [
        _joined(parts[fold], [count * pixels for count in images[fold].values()], mean, deviation)
        for fold in sorted(parts)
    ]
    return blocks, mean, deviation


def _joined(parts: Sequence[Block], sizes: Sequence[int], mean: Tensor, deviation: Tensor) -> Block:
    """Join patches to the block of a fold, with standardised features."""
    levels, first = [], 0
    for several in zip(*(part.levels for part in parts), strict=True):
        positions = torch.cat([level.positions for level in several])  # (m, C)
        channels = slice(first, first + positions.shape[1])
        # Bilinear weights sum to 1, so standardising positions standardises pixels.
        positions -= mean[channels].float()
        positions /= deviation[channels].float()
        size, weights = len(several[0].positions), [level.weights for level in several]
        if weights[0] is None:
            levels.append(Level(positions))
        else:
            corners = [i * size + level.corners for i, level in enumerate(several)]
            levels.append(Level(positions, torch.cat(corners, dim=1), torch.cat(weights, dim=1)))
        first = channels.stop
    return Block(levels, torch.cat([part.target for part in parts]), sizes)


def _sample(bank: FeatureBank, patch: Patch, target: Tensor, pixels: int, seed: int) -> Block:
    """Return random pixels of a patch (S, S), with features that are not standardised."""
    side = len(target)
    rng = generator_of(f"pixels\n{seed}\n{patch[0]}\n{patch[1]}")
    chosen = np.sort(rng.choice(side * side, pixels, replace=False))
    rows, columns = (torch.from_numpy(part) for part in np.divmod(chosen, side))
    maps = bank.maps([patch])  # [(1, C_i, h_i, w_i), ...]
    device = maps[0].device if maps[0].device.type != "mps" else torch.device("cpu")  # float64
    levels = [_resized_at(level[0].to(device), rows, columns, side) for level in maps]
    return Block(levels, target[rows, columns].double().to(device), [pixels])


def _resized_at(level: Tensor, rows: Tensor, columns: Tensor, side: int) -> Level:
    """Return pixels of a map (C, h, w) that is bilinearly resized to (side, side).

    On a CPU, the pixels of a map with fewer positions are interpolated from projected positions in
    every iteration, which is faster than projecting the pixels.
    """
    height, width = level.shape[1:]
    corners, weights = [], []
    for y, y_weight in _neighbours(rows, height, side):
        for x, x_weight in _neighbours(columns, width, side):
            corners.append(y * width + x)
            weights.append(y_weight * x_weight)
    positions = level.flatten(1).T.contiguous()  # (h w, C)
    corners, weights = torch.stack(corners).to(level.device), torch.stack(weights).to(level)
    pixels = Level(positions, corners, weights)
    if len(positions) < len(rows) and level.device.type == "cpu":
        return pixels
    return Level(pixels.features)


def _neighbours(index: Tensor, before: int, after: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two positions on an axis of a map, and their weights, for a resized pixel (n,)."""
    source = ((index.double() + 0.5) * before / after - 0.5).clamp(min=0)
    first = source.long()
    share = source - first
    return [(first, 1 - share), ((first + 1).clamp(max=before - 1), share)]
