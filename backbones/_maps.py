"""Feature maps of timm models, and their channels and strides.

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
    """Properties of a model's maps, measured by running it once on the meta device.

    Attributes:
        channels, strides: of the maps.
        norms: whether the model can apply its final norm to the maps.
        dynamic: whether the model has the option `dynamic_img_size`.
        fixed_px: the only input side that the model takes; None if it takes any multiple of the
            stride.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    norms: bool
    dynamic: bool
    fixed_px: int | None


def read_maps(model: Any, pixels: Tensor, layers: tuple[int, ...] | None, norm: bool) -> Maps:
    """Return the maps of a model, finest first, and the class and register tokens of the last.

    Args:
        pixels: (N, 3, H, W), normalised.
        layers: numbers of blocks (of a hierarchical model: stages); None: the last only.
        norm: whether to apply the model's final norm to the maps.

    Returns:
        [(N, C_i, H/s_i, W/s_i), ...], and (N, R, C) or None.
    """
    parameters = inspect.signature(model.forward_intermediates).parameters
    has_tokens = "return_prefix_tokens" in parameters and model.num_prefix_tokens > 0
    outputs = model.forward_intermediates(
        pixels,
        indices=1 if layers is None else list(layers),
        norm=norm,
        output_fmt="NCHW",
        intermediates_only=True,
        **({"return_prefix_tokens": True} if has_tokens else {}),
        **({"stop_early": True} if layers and "stop_early" in parameters else {}),
    )
    if not isinstance(outputs[-1], tuple):
        return list(outputs), None
    return [feature_map for feature_map, _ in outputs], outputs[-1][1]


def shape_of(
    architecture: str, arguments: Mapping[str, Any], layers: tuple[int, ...] | None, read: Read
) -> Shape:
    """Measure the maps of a timm model on the meta device.

    Args:
        architecture: timm's name.
        arguments: of `timm.create_model`.
        layers: as for `read_maps`.
        read: function that returns the maps, such as `read_maps`.

    Raises:
        BenchError: `layers` are not ascending numbers of blocks, or the model has no maps whose
            sides are a fraction of the image's.
    """
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, **arguments).eval()
        _check_layers(architecture, layers, len(model.feature_info))
        released = model.pretrained_cfg
        dynamic = any(
            "dynamic_img_size" in inspect.signature(cls).parameters
            for cls in type(model).__mro__[:-1]
        )
        side = arguments.get("img_size") or released["input_size"][-1]
        fixed = bool(released.get("fixed_input_size"))
        if not fixed:
            side = 8 * model.feature_info[-1]["reduction"]
        norms, maps = _run(architecture, model, torch.empty(1, 3, side, side), layers, read)
    fixed_px = side if fixed and not dynamic else None
    channels = tuple(feature_map.shape[1] for feature_map in maps)
    strides = tuple(_stride(architecture, side, feature_map) for feature_map in maps)
    return Shape(channels, strides, norms, dynamic, fixed_px)


def _check_layers(architecture: str, layers: tuple[int, ...] | None, count: int) -> None:
    if layers is None:
        return
    ascending = list(layers) == sorted(set(layers))
    if not layers or not ascending or layers[0] < 0 or layers[-1] >= count:
        raise BenchError(
            f"{architecture} has layers 0 to {count - 1}: list some in ascending order, as in "
            f"layers={count // 2},{count - 1}; got {','.join(map(str, layers)) or 'none'}."
        )


def _run(
    architecture: str, model: Any, pixels: Tensor, layers: tuple[int, ...] | None, read: Read
) -> tuple[bool, list[Tensor]]:
    """Run a model with its final norm; if that fails, as in models without one, run it without."""
    reason = ""
    for norms in (True, False):
        try:
            return norms, read(model, pixels, layers, norms)[0]
        except (AssertionError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__} {error}"
    raise BenchError(f"timm's {architecture} cannot be a dense extractor: {reason}")


def _stride(architecture: str, side: int, feature_map: Tensor) -> int:
    stride, remainder = divmod(side, feature_map.shape[-1])
    if remainder:
        raise BenchError(
            f"timm's {architecture} cannot be a dense extractor: the side of a map, "
            f"{feature_map.shape[-1]} pixels, does not divide that of the image, {side}."
        )
    return stride
