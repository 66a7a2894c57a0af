"""What a timm model gives: its maps, their widths and strides, found by running it once.

Letters: N images, H and W their sides, s_i the stride of a map (the patch of a ViT), C_i its
channels, R class and register tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from bench.errors import BenchError

Maps = tuple[list[Tensor], Tensor | None]
Read = Callable[[Any, Tensor, tuple[int, ...] | None, bool], Maps]


@dataclass(frozen=True)
class Shape:
    """What a model is, found by running it once on the meta device.

    Attributes:
        channels, strides: of its maps.
        norms: whether it can apply its own final norm to the maps.
        dynamic: whether it takes other sides than those that it was built for, if told so.
        fixed_px: the only side that it takes; None where any multiple of the stride will do.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    norms: bool
    dynamic: bool
    fixed_px: int | None


def read_maps(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Run a model for its maps, finest first, and for the class and register tokens of the last.

    Args:
        pixels: (N, 3, H, W), normalised.
        layers: numbers of blocks (of a hierarchical model: stages); None: the last alone.
        norm: whether the model's final norm is applied to the maps.

    Returns:
        [(N, C_i, H/s_i, W/s_i), ...], and (N, R, C) or None.
    """
    takes = inspect.signature(model.forward_intermediates).parameters
    has_tokens = "return_prefix_tokens" in takes and model.num_prefix_tokens > 0
    found = model.forward_intermediates(
        pixels,
        indices=1 if layers is None else list(layers),
        norm=norm,
        output_fmt="NCHW",
        intermediates_only=True,
        **({"return_prefix_tokens": True} if has_tokens else {}),
        **({"stop_early": True} if layers and "stop_early" in takes else {}),
    )
    if not isinstance(found[-1], tuple):
        return list(found), None
    return [each for each, _ in found], found[-1][1]


def shape_of(
    architecture: str, asked: Mapping[str, Any], layers: tuple[int, ...] | None, read: Read
) -> Shape:
    """Find what the maps of a timm model are, on the meta device.

    Raises:
        BenchError: the layers are not some of its blocks, or its maps are no fraction of the image.
    """
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, **asked).eval()
        _refuse_bad_layers(architecture, layers, len(model.feature_info))
        released = model.pretrained_cfg
        dynamic = any("dynamic_img_size" in _parameters(kind) for kind in type(model).__mro__[:-1])
        side = asked.get("img_size") or released["input_size"][-1]
        fixed = bool(released.get("fixed_input_size"))
        if not fixed:
            side = 8 * model.feature_info[-1]["reduction"]
        norms, maps = _probed(architecture, model, torch.empty(1, 3, side, side), layers, read)
    fixed_px = side if fixed and not dynamic else None
    channels, strides = zip(*(_told(architecture, side, each) for each in maps), strict=True)
    return Shape(channels, strides, norms, dynamic, fixed_px)


def _refuse_bad_layers(architecture: str, layers: tuple[int, ...] | None, count: int) -> None:
    if layers is None:
        return
    if (
        not layers
        or list(layers) != sorted(set(layers))
        or not 0 <= layers[0] <= layers[-1] < count
    ):
        raise BenchError(
            f"{architecture} has layers 0 to {count - 1}: name some of them, rising, as in "
            f"layers={count // 2},{count - 1}; got {','.join(map(str, layers)) or 'none'}."
        )


def _probed(
    architecture: str, model: Any, pixels: Tensor, layers: tuple[int, ...] | None, read: Read
) -> tuple[bool, list[Tensor]]:
    """Run a model with its final norm, or without: a few have none to apply, and assert so."""
    reason = ""
    for norms in (True, False):
        try:
            return norms, read(model, pixels, layers, norms)[0]
        except (AssertionError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__} {error}"
    raise BenchError(f"timm's {architecture} cannot be a dense extractor: {reason}")


def _told(architecture: str, side: int, each: Tensor) -> tuple[int, int]:
    """Give the width and the stride of a map."""
    stride, rest = divmod(side, each.shape[-1])
    if rest:
        raise BenchError(
            f"timm's {architecture} cannot be a dense extractor: a map of it has "
            f"{each.shape[-1]} pixels a side for {side} of the image, which is no whole fraction."
        )
    return each.shape[1], stride


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters
