"""A model of one channel that sees red, green and blue one after another (GenBio-PathFM).

Letters: N images, H and W their sides, s the stride, C channels of a map, R tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._maps import Maps, read_maps
from ._timm import TimmExtractor


def read_colours(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Read the maps of each colour and lay those of red, green and blue side by side."""
    alone = pixels.flatten(0, 1).unsqueeze(1)  # (3N, 1, H, W)
    maps, prefix = read_maps(model, alone, layers, norm)  # [(3N, C, H/s, W/s), ...], (3N, R, C)
    beside = [each.unflatten(0, (-1, 3)).flatten(1, 2) for each in maps]  # (N, 3C, H/s, W/s) each
    if prefix is None:
        return beside, None
    tokens = prefix.unflatten(0, (-1, 3)).transpose(1, 2)  # (N, R, 3, C)
    return beside, tokens.flatten(2)  # (N, R, 3C)


class ColourwiseExtractor(TimmExtractor):
    """Maps of three times the model's width: those of red, of green and of blue."""

    read = staticmethod(read_colours)
