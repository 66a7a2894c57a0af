"""Swin transformers as extractors at any size: windows are shifted where there is more than one.

timm decides at building, by the native size, which blocks shift their windows, so a model built at
224 pixels never shifts those of its last stage, of 7 x 7 at that size; run on a larger image, it is
not the model that one built for that image is. Here it is decided by the image. A stage that is
smaller than a window (images under 7 x 32 pixels) is padded to one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._maps import Maps, read_maps
from ._timm import TimmExtractor


def read_swin(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Read maps as `read_maps` does, with windows that suit the image."""
    for stage, told in zip(model.layers, model.feature_info, strict=True):
        grid = [side // told["reduction"] for side in pixels.shape[-2:]]
        for block in stage.blocks:
            sides = zip(grid, block.window_size, block.target_shift_size, strict=True)
            block.shift_size = tuple(shift if own > window else 0 for own, window, shift in sides)
    return read_maps(model, pixels, layers, norm)


class SwinExtractor(TimmExtractor):
    """Maps of a Swin transformer; the final norm is that of the last stage alone.

    The last map, of stride 32, is the default, as with every other model; `layers=0,1,2,3` gives
    the pyramid of strides 4, 8, 16 and 32 that detection and segmentation heads are built on.
    """

    read = staticmethod(read_swin)
