"""Any timm model as a frozen extractor: of its last map, or of the maps of several layers.

Letters: N images, H and W their sides, s_i the stride of a map (the patch of a ViT), C_i its
channels, R class and register tokens.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from bench.errors import BenchError
from bench.interface import FeatureExtractor

from ._maps import Maps, read_maps, shape_of
from ._stem import conv_stem

Colour = tuple[float, float, float]

PARTS: Mapping[str, object] = {  # what a record cannot name without importing torch
    "SwiGLUPacked": SwiGLUPacked,
    "SiLU": nn.SiLU,
    "LayerNorm(eps=1e-6)": partial(nn.LayerNorm, eps=1e-6),
    "LayerNorm(eps=1e-12)": partial(nn.LayerNorm, eps=1e-12),
    "conv_stem": conv_stem,
}


class TimmExtractor(FeatureExtractor):
    """Maps of a timm model, after its final norm; class and register tokens are dropped.

    A ViT takes any sides that its patch divides: position embeddings are resized as timm does
    (bicubic, antialiased). A model that cannot take other sides than its own says so.

    Attributes:
        fixed_px: the only side that the model takes; None where any multiple of the stride will do.
        read: how the maps are read off the model.
    """

    read = staticmethod(read_maps)
    any_size = False  # whether the model resizes what it has by itself, though timm calls it fixed

    def __init__(
        self,
        architecture: str,
        *,
        mean: Colour | None = None,
        std: Colour | None = None,
        layers: tuple[int, ...] | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Build the model with random weights and without its classifier.

        Args:
            architecture: timm's name, with or without the tag of a release.
            mean, std: where they are not those that timm names for the release.
            layers: numbers of the blocks (of a hierarchical model: stages) whose maps are given,
                each after the final norm where it has the width for it; None: the last alone.
            options: further arguments of `timm.create_model`; a layer goes by its word in `PARTS`.

        Raises:
            BenchError: the layers are not some of the model's, rising.
        """
        super().__init__()
        asked: dict[str, Any] = {"pretrained": False, "num_classes": 0}
        asked |= {k: PARTS.get(v, v) if k.endswith("_layer") else v for k, v in options.items()}
        self.taps = layers
        self._shape = shape_of(architecture, asked, layers, self.read)
        if self._shape.dynamic:
            asked["dynamic_img_size"] = True
        self.model: Any = timm.create_model(architecture, **asked)
        released = self.model.pretrained_cfg
        self.mean = mean or tuple(released["mean"])
        self.std = std or tuple(released["std"])
        self.channels, self.strides = self._shape.channels, self._shape.strides
        self.fixed_px: int | None = None if self.any_size else self._shape.fixed_px
        self.facts = {
            "network": " ".join([architecture, *(f"{k}={v}" for k, v in options.items())]),
            "mean": list(self.mean),
            "std": list(self.std),
        }
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self._run(images, self.taps)[0]  # [(N, C_i, H/s_i, W/s_i), ...]

    def embed(self, images: Tensor) -> Tensor:
        """Give the normalised class token, or the mean of the map where there is none: (N, C)."""
        (last,), prefix = self._run(images, None)
        if prefix is None or getattr(self.model, "cls_token", None) is None:
            return last.mean(dim=(2, 3))  # (N, C)
        if self._late_norm(last) is not None:
            return last.mean(dim=(2, 3))  # (N, C): the release pools the patches, not this token
        return prefix[:, 0]  # (N, C)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state dict in timm's names, on the grid of position embeddings that it has."""
        self._take_grid(state.get("pos_embed"))
        self.model.load_state_dict(state, strict=True)

    def _run(self, images: Tensor, layers: tuple[int, ...] | None) -> Maps:
        """Give [(N, C_i, H/s_i, W/s_i), ...], and class and register tokens (N, R, C) or None."""
        self._check_size(images)
        maps, prefix = self.read(self.model, self.normalise(images), layers, self._shape.norms)
        return [self._finished(each) for each in maps], prefix

    def _finished(self, found: Tensor) -> Tensor:
        """Apply a final norm that timm leaves to the head, to a map (N, C, h, w)."""
        norm = self._late_norm(found)
        if norm is None:
            return found
        columns = found.permute(0, 2, 3, 1)  # (N, h, w, C)
        columns = F.layer_norm(columns, columns.shape[-1:], norm.weight, norm.bias, norm.eps)
        return columns.permute(0, 3, 1, 2)  # (N, C, h, w)

    def _late_norm(self, found: Tensor) -> nn.LayerNorm | None:
        """Find the final norm of a model that has it in its head, after pooling, for a map."""
        if isinstance(getattr(self.model, "norm", None), nn.LayerNorm):
            return None
        head = getattr(self.model, "head", None)
        for norm in (getattr(self.model, "fc_norm", None), getattr(head, "norm", None)):
            if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (found.shape[1],):
                return norm
        return None

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if self.fixed_px is not None and (height, width) != (self.fixed_px, self.fixed_px):
            raise BenchError(
                f"{self.model.pretrained_cfg['architecture']} takes images of {self.fixed_px} x "
                f"{self.fixed_px} pixels alone, got {height} x {width}: --input-px {self.fixed_px}."
            )
        stride = self.strides[-1]
        if height % stride or width % stride:
            raise BenchError(
                f"{self.model.pretrained_cfg['architecture']} takes sides divisible by {stride}, "
                f"got {height} x {width}: resize or pad the images."
            )

    def _take_grid(self, positions: Tensor | None) -> None:
        """Give the model the grid of a checkpoint that was trained at another size."""
        own = getattr(self.model, "pos_embed", None)
        if positions is None or own is None or positions.shape == own.shape or self.fixed_px:
            return
        if positions.ndim != 3:
            return  # a grid of rows and columns (SAM's), which `load` refuses by its shape
        prefix = 0 if getattr(self.model, "no_embed_class", False) else self.model.num_prefix_tokens
        side = math.isqrt(positions.shape[1] - prefix) * self.strides[0]
        self.model.set_input_size((side, side))


def released_state(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Bring a released state dict to the names of a `TimmExtractor`, without its classifier.

    Where the names do not agree then, timm's own filter of the model's family renames them.
    """
    assert isinstance(extractor, TimmExtractor)
    model = extractor.model
    own = model.state_dict().keys()
    bare = _without_classifier(state, model)
    if bare.keys() == own:
        return bare
    family = sys.modules[type(model).__module__]
    rename = getattr(family, "checkpoint_filter_fn", None)
    return bare if rename is None else _without_classifier(rename(dict(state), model), model)


def _without_classifier(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    named = model.pretrained_cfg.get("classifier") or ()
    layers = (named,) if isinstance(named, str) else named
    heads = tuple(f"{each.split('.')[0]}." for each in layers)
    own = model.state_dict().keys()
    return {name: each for name, each in state.items() if name in own or not name.startswith(heads)}
