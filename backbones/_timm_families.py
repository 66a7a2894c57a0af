"""timm models that need special handling: SAM, Swin transformers, and ViTs of one input channel.

Letters: N images, H and W their sides, s the stride, C channels of a map, R tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._maps import Maps, read_maps
from ._timm import TimmExtractor


def read_sam(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Return the neck's map, or maps of the trunk; timm treats the neck as the final norm."""
    return read_maps(model, pixels, layers, norm and layers is None)


class SamExtractor(TimmExtractor):
    """Image encoder of Segment Anything (Kirillov et al., ICCV 2023), at any image size.

    The default map is the output of the neck, the image embedding of 256 channels that SAM's mask
    decoder takes. `layers` selects blocks of the trunk instead, before the neck and without a norm
    (the trunk has none), as encoder-decoders on SAM do (CellViT). timm resizes the absolute
    position embeddings (bicubic) and the relative ones (linear) to the image.
    """

    read = staticmethod(read_sam)
    any_size = True


def read_swin(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Return maps as `read_maps` does, after setting the window shifts for the image size."""
    for stage, info in zip(model.layers, model.feature_info, strict=True):
        grid = [side // info["reduction"] for side in pixels.shape[-2:]]
        for block in stage.blocks:
            axes = zip(grid, block.window_size, block.target_shift_size, strict=True)
            block.shift_size = tuple(shift if side > window else 0 for side, window, shift in axes)
    return read_maps(model, pixels, layers, norm)


class SwinExtractor(TimmExtractor):
    """Swin transformer at any image size; the final norm applies to the last stage only.

    timm decides at construction, from the native size, which blocks shift their windows: the last
    stage of a model built for 224 pixels never shifts its 7 x 7 windows. Here the image decides, so
    the maps are those of a model built for that image. A stage smaller than a window (images under
    7 x 32 pixels) is padded to one.

    The default is the last map, of stride 32; `layers=0,1,2,3` gives the pyramid of strides 4, 8,
    16 and 32 that detection and segmentation heads take.
    """

    read = staticmethod(read_swin)


def read_colours(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Return the maps of red, green and blue, each run as an image, concatenated by channel."""
    planes = pixels.flatten(0, 1).unsqueeze(1)  # (3N, 1, H, W)
    maps, prefix = read_maps(model, planes, layers, norm)  # [(3N, C, H/s, W/s), ...], (3N, R, C)
    joined = [plane_map.unflatten(0, (-1, 3)).flatten(1, 2) for plane_map in maps]
    if prefix is None:
        return joined, None  # [(N, 3C, H/s, W/s), ...]
    tokens = prefix.unflatten(0, (-1, 3)).transpose(1, 2)  # (N, R, 3, C)
    return joined, tokens.flatten(2)  # (N, R, 3C)


class ColourwiseExtractor(TimmExtractor):
    """A model of one input channel, applied to red, green and blue; maps are three times as wide.

    GenBio-PathFM is used this way.
    """

    read = staticmethod(read_colours)
