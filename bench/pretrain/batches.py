"""Batches as a function of the seed and the number of the step, and of nothing else.

So a run that goes on needs no state of a sampler, and the number of workers changes nothing.
Letters: N images of a batch, S side of the crop.
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

WHOLE_SHARE = 0.2  # of the samples: the whole image resized (section 4.1.2 of arXiv 2605.08276)
ORDER, CROP, CORRUPTION, WEIGHTS, VALIDATION, AMBIENT = range(6)  # what a seed is drawn for


class Batch(NamedTuple):
    """Images (N, 3, S, S) uint8, and the tiles that could not be used: (name, reason)."""

    images: Tensor
    refused: list[tuple[str, str]]


class Batches(Dataset[Batch]):
    """The batches of a run, by the number of the step."""

    def __init__(
        self,
        tiles: Sequence[Tile],
        batch_size: int,
        crop_px: int,
        seed: int,
        part: slice = slice(None),
    ) -> None:
        """Take the tiles, and the part of each batch that is made here."""
        self.tiles, self.crop_px, self.seed = tiles, crop_px, seed
        self.batch_size, self.part = batch_size, part
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> Batch:
        """Make the batch that step `step` (from 0) learns from, or the part of it."""
        first = step * self.batch_size
        crops, refused = [], []
        for sample in range(first, first + self.batch_size)[self.part]:
            image = self._image(sample, refused)
            crops.append(cut(image, self.crop_px, rng_of(self.seed, CROP, sample)))
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # (N, 3, S, S)
        return Batch(images.contiguous(), refused)

    def _image(self, sample: int, refused: list[tuple[str, str]]) -> np.ndarray:
        """Read the tile of a sample, or the first one after it that can be used."""
        first = self._tile_number(sample)
        for further in range(refusals_allowed(len(self.tiles)) + 1):
            tile = self.tiles[(first + further) % len(self.tiles)]
            try:
                return tile.read()
            except BenchError as error:
                refused.append((tile.name, str(error)))
        # More than are allowed were refused: the trainer stops before it looks at this batch.
        return np.zeros((self.crop_px, self.crop_px, 3), np.uint8)

    def _tile_number(self, sample: int) -> int:
        epoch, place = divmod(sample, len(self.tiles))
        if epoch != self._epoch:
            self._order = rng_of(self.seed, ORDER, epoch).permutation(len(self.tiles))
            self._epoch = epoch
        return int(self._order[place])


def refusals_allowed(tiles: int) -> int:
    """Say how many of so many tiles may be unusable: 1 in 100, or 10, but never all."""
    return min(max(10, tiles // 100), tiles - 1)


def cut(image: np.ndarray, crop_px: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a square: mostly a random crop, sometimes the largest square, resized (section 4.1.2).

    Args:
        image: (H, W, 3) uint8. Where its shorter side is under S, the square is the largest one,
            enlarged.
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
    """Cut the square in the middle: (H, W, 3) to (S, S, 3) uint8; a small image is enlarged."""
    side = min(crop_px, *image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return resized(image[top : top + side, left : left + side], crop_px)


def resized(square: np.ndarray, side: int) -> np.ndarray:
    """Resize a square (s, s, 3) uint8 to (S, S, 3), smoothed where it becomes smaller."""
    if len(square) == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def rng_of(*numbers: int) -> np.random.Generator:
    """Give the random numbers that belong to a seed, a purpose and a place."""
    return np.random.default_rng(numbers)


def seed_of(*numbers: int) -> int:
    """Give the seed for torch that belongs to a seed, a purpose and a place: below 2 ** 63."""
    return int(rng_of(*numbers).integers(2**63))
