"""Reconstruction of held-out tiles, with the same crops, time steps and masks every time.

Tiles are held out, not slides or patients, so the scores only show how training progresses; they
do not compare networks that were trained on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.api.seeds import seed_of_numbers
from bench.errors import BenchError
from bench.pretrain.batches import VALIDATION, centre
from bench.pretrain.objective import ssim
from bench.pretrain.tiles import Tile

TIMES = (100, 500, 900)  # time steps t

Reconstruct = Callable[[Tensor, Tensor, Sequence[torch.Generator]], tuple[Tensor, Tensor]]
"""Map clean (1, 3, S, S) in [-1, 1], (1,) times and a generator to (corrupted, restored)."""


@dataclass(frozen=True)
class Scores:
    """Means over tiles and time steps.

    Attributes:
        l1: L1 distance of values in [-1, 1], as in the loss.
        psnr: peak signal-to-noise ratio in dB.
        ssim: structural similarity in windows of 5 x 5 pixels.
    """

    l1: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class TileReconstruction:
    """A tile at time step t: clean, corrupted and reconstructed, (1, 3, S, S) in [-1, 1]."""

    tile: int
    t: int
    clean: Tensor
    corrupted: Tensor
    reconstructed: Tensor


def crops_of(tiles: Sequence[Tile], crop_px: int, refused: dict[str, str]) -> list[Tensor]:
    """Read the centre of each tile, (1, 3, S, S) in [-1, 1]; add unusable tiles to `refused`."""
    crops = []
    for tile in tiles:
        try:
            square = centre(tile.read(), crop_px)
        except BenchError as error:
            refused[tile.name] = str(error)
        else:
            crops.append(torch.from_numpy(square.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    return crops


def views(
    crops: Sequence[Tensor], reconstruct: Reconstruct, seed: int
) -> Iterator[TileReconstruction]:
    """Yield every crop, corrupted and reconstructed at every time step of `TIMES`."""
    for number, clean in enumerate(crops):
        for time in TIMES:
            generator = torch.Generator().manual_seed(
                seed_of_numbers(seed, VALIDATION, number, time)
            )
            pair = reconstruct(clean, torch.tensor([time]), [generator])
            corrupted, restored = (image.cpu().clamp(-1, 1) for image in pair)
            yield TileReconstruction(number, time, clean, corrupted, restored)


def score(views: Sequence[TileReconstruction]) -> Scores:
    """Return the mean scores of reconstructions."""
    l1 = [float((view.reconstructed - view.clean).abs().mean()) for view in views]
    similarity = [float(ssim(view.reconstructed, view.clean)) for view in views]
    return Scores(
        l1=float(np.mean(l1)),
        psnr=float(np.mean([psnr(view) for view in views])),
        ssim=float(np.mean(similarity)),
    )


def psnr(view: TileReconstruction) -> float:
    """Return the peak signal-to-noise ratio of a reconstruction in dB, at most 100."""
    return decibels(float((view.reconstructed - view.clean).square().mean()), value_range=2)


def decibels(mean_squared_error: float, value_range: float) -> float:
    """Return the peak signal-to-noise ratio of a mean squared error in dB, at most 100."""
    peak = value_range**2
    return 10 * float(np.log10(peak / max(mean_squared_error, 1e-10 * peak)))
