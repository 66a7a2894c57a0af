"""The image encoder of Segment Anything (SAM) as an extractor, at any size.

By default the map is the neck's, of 256 channels: what SAM's authors call the image embedding, and
its mask decoder reads. `layers` gives maps of the trunk's blocks instead, before the neck and
without a norm (the trunk has none), as encoder-decoders on SAM take them (CellViT). Positions
follow the image as timm resizes them: bicubic for the absolute ones, linear for the relative.

Kirillov et al., "Segment Anything", ICCV 2023.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._maps import Maps, read_maps
from ._timm import TimmExtractor


def read_sam(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Read the neck's map, or maps of the trunk: timm's norm of this model is its neck."""
    return read_maps(model, pixels, layers, norm and layers is None)


class SamExtractor(TimmExtractor):
    """The neck's map of SAM's encoder, or maps of its trunk."""

    read = staticmethod(read_sam)
    any_size = True
