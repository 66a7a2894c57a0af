"""Batches that depend on the seed and the step only.

A resumed run therefore needs no sampler state, and the number of workers does not matter.
Shapes: N images per batch, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bench.errors import BenchError
from bench.pretrain.tiles import Tile

WHOLE_SHARE = 0.2  # of the samples are resized whole images (section 4.1.2 of arXiv 2605.08276)
ORDER, CROP, CORRUPTION, WEIGHTS, VALIDATION, AMBIENT = range(6)  # purposes of seeds


class Batch(NamedTuple):
    """Images (N, 3, S, S) uint8, and the unusable tiles as (name, reason)."""

    images: Tensor
    refused: list[tuple[str, str]]


class Batches(Dataset[Batch]):
    """The batches of a run, indexed by step.

    Attributes:
        part: the slice of each batch that this process trains on.
    """

    def __init__(
        self,
        tiles: Sequence[Tile],
        batch_size: int,
        crop_px: int,
        seed: int,
        part: slice = slice(None),
    ) -> None:
        self.tiles, self.crop_px, self.seed = tiles, crop_px, seed
        self.batch_size, self.part = batch_size, part
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> Batch:
        """Return this process's part of the batch of step `step`, from 0."""
        first = step * self.batch_size
        crops, refused = [], []
        for sample in range(first, first + self.batch_size)[self.part]:
            image = self._image(sample, refused)
            crops.append(cut(image, self.crop_px, rng_of(self.seed, CROP, sample)))
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # (N, 3, S, S)
        return Batch(images.contiguous(), refused)

    def _image(self, sample: int, refused: list[tuple[str, str]]) -> np.ndarray:
        """Read the tile of a sample, or the next usable one."""
        first = self._tile_number(sample)
        for offset in range(refusals_allowed(len(self.tiles)) + 1):
            tile = self.tiles[(first + offset) % len(self.tiles)]
            try:
                return tile.read()
            except BenchError as error:
                refused.append((tile.name, str(error)))
        # Too many tiles are unusable: the trainer stops before it uses this batch.
        return np.zeros((self.crop_px, self.crop_px, 3), np.uint8)

    def _tile_number(self, sample: int) -> int:
        epoch, position = divmod(sample, len(self.tiles))
        if epoch != self._epoch:
            self._order = rng_of(self.seed, ORDER, epoch).permutation(len(self.tiles))
            self._epoch = epoch
        return int(self._order[position])


def refusals_allowed(tiles: int) -> int:
    """Return how many tiles may be unusable: 10 or 1 in 100 if that is more, but never all."""
    return min(max(10, tiles // 100), tiles - 1)


def cut(image: np.ndarray, crop_px: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random crop or, for a share of the samples, the largest square resized (section 4.1.2).

    Args:
        image: (H, W, 3) uint8. If its shorter side is under S, its largest square is enlarged.
        crop_px: S.

    Returns:
        (S, S, 3) uint8.
    """
    shorter = min(image.shape[:2])
    whole = rng.random() < WHOLE_SHARE
    side = shorter if whole else min(crop_px, shorter)
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return resized(image[top : top + side, left : left + side], crop_px)


def centre(image: np.ndarray, crop_px: int) -> np.ndarray:
    """Cut the central square: (H, W, 3) to (S, S, 3) uint8; a small image is enlarged."""
    side = min(crop_px, *image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return resized(image[top : top + side, left : left + side], crop_px)


def resized(square: np.ndarray, side: int) -> np.ndarray:
    """Resize a square (s, s, 3) uint8 to (S, S, 3), with antialiasing if it shrinks."""
    if len(square) == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def rng_of(*numbers: int) -> np.random.Generator:
    """Return the generator of a seed, a purpose and a position."""
    return np.random.default_rng(numbers)
