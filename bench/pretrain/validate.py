"""How well held-out tiles are reconstructed: the same crops, times and masks at every look.

A tile is held out, not its slide or patient, so the scores tell whether training goes on well; they
do not compare networks that were trained on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.pretrain.batches import VALIDATION, centre, seed_of
from bench.pretrain.objective import ssim
from bench.pretrain.tiles import Tile

TIMES = (100, 500, 900)

Reconstruct = Callable[[Tensor, Tensor, Sequence[torch.Generator]], tuple[Tensor, Tensor]]
"""Clean (1, 3, S, S) in [-1, 1], (1,) times, a generator an image, to (corrupted, restored)."""


@dataclass(frozen=True)
class Scores:
    """Means over tiles and times.

    Attributes:
        l1: of values in [-1, 1], as in the loss.
        psnr: in dB.
        ssim: of windows of 5 x 5 pixels.
    """

    l1: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class View:
    """A tile at a time: clean, corrupted and reconstructed, each (1, 3, S, S) in [-1, 1]."""

    tile: int
    t: int
    clean: Tensor
    corrupted: Tensor
    reconstructed: Tensor


def crops_of(tiles: Sequence[Tile], crop_px: int, refused: dict[str, str]) -> list[Tensor]:
    """Read the middle of each tile, (1, 3, S, S) in [-1, 1]; unusable ones go to `refused`."""
    crops = []
    for tile in tiles:
        try:
            square = centre(tile.read(), crop_px)
        except BenchError as error:
            refused[tile.name] = str(error)
        else:
            crops.append(torch.from_numpy(square.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    return crops


def views(crops: Sequence[Tensor], reconstruct: Reconstruct, seed: int) -> Iterator[View]:
    """Corrupt and reconstruct every crop at every one of `TIMES`."""
    for number, clean in enumerate(crops):
        for time in TIMES:
            generator = torch.Generator().manual_seed(seed_of(seed, VALIDATION, number, time))
            pair = reconstruct(clean, torch.tensor([time]), [generator])
            corrupted, restored = (each.cpu().clamp(-1, 1) for each in pair)
            yield View(number, time, clean, corrupted, restored)


def score(seen: Sequence[View]) -> Scores:
    """Compare reconstructions with clean images."""
    l1 = [float((view.reconstructed - view.clean).abs().mean()) for view in seen]
    alike = [float(ssim(view.reconstructed, view.clean)) for view in seen]
    return Scores(
        float(np.mean(l1)), float(np.mean([psnr(v) for v in seen])), float(np.mean(alike))
    )


def psnr(view: View) -> float:
    """Give the peak signal-to-noise ratio in dB; values span 2, and 100 dB is the most."""
    error = float((view.reconstructed - view.clean).square().mean())
    return 10 * float(np.log10(4 / max(error, 4e-10)))
