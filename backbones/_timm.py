"""Any timm model as a frozen extractor of its last map or of the maps of several layers.

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
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor
from bench.errors import BenchError

from ._maps import Maps, read_maps, shape_of

Colour = tuple[float, float, float]


def conv_stem(**arguments: Any) -> PatchEmbed:
    """Return timm's patch embedding with the convolutional stem of CTransPath, of stride 4.

    Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image
    classification", Medical Image Analysis 2022, section 3.2. The output is (N, H/4, W/4, C).

    Args:
        arguments: those of `PatchEmbed`; `embed_dim` is C.
    """
    embedding = PatchEmbed(**arguments)
    width = arguments["embed_dim"]
    embedding.proj = nn.Sequential(  # type: ignore[assignment]
        nn.Conv2d(3, width // 8, 3, stride=2, padding=1, bias=False),  # (N, C/8, H/2, W/2)
        nn.BatchNorm2d(width // 8),
        nn.ReLU(),
        nn.Conv2d(width // 8, width // 4, 3, stride=2, padding=1, bias=False),  # (N, C/4, H/4, W/4)
        nn.BatchNorm2d(width // 4),
        nn.ReLU(),
        nn.Conv2d(width // 4, width, 1),  # (N, C, H/4, W/4)
    )
    return embedding


LAYERS: Mapping[str, object] = {  # names for records, which do not import torch
    "SwiGLUPacked": SwiGLUPacked,
    "SiLU": nn.SiLU,
    "LayerNorm(eps=1e-6)": partial(nn.LayerNorm, eps=1e-6),
    "LayerNorm(eps=1e-12)": partial(nn.LayerNorm, eps=1e-12),
    "conv_stem": conv_stem,
}


class TimmExtractor(FeatureExtractor):
    """Maps of a timm model, after its final norm; class and register tokens are dropped.

    A ViT takes any sides that its patch divides: timm resizes the position embeddings (bicubic,
    antialiased). A model of a fixed input size raises an error at another one.

    Attributes:
        fixed_px: the only input side that the model takes; None if it takes any multiple of the
            stride.
        read: function that runs the model and returns its maps.
    """

    read = staticmethod(read_maps)
    any_size = False  # True: the model adapts to the image, although timm calls its size fixed

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
            mean, std: of RGB in [0, 1]; None: those of timm's configuration of the release.
            layers: ascending numbers of the blocks (of a hierarchical model: stages) whose maps are
                returned, after the final norm where it has the same width; None: the last map only.
            options: further arguments of `timm.create_model`; layer types by their key in `LAYERS`.

        Raises:
            BenchError: `layers` are not ascending numbers of layers of the model.
        """
        super().__init__()
        arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0}
        for name, value in options.items():
            arguments[name] = LAYERS.get(value, value) if name.endswith("_layer") else value
        self.taps = layers
        self._shape = shape_of(architecture, arguments, layers, self.read)
        if self._shape.dynamic:
            arguments["dynamic_img_size"] = True
        self.model: Any = timm.create_model(architecture, **arguments)
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
        """Return the normalised class token, or the mean of the map without one: (N, C)."""
        (last,), prefix = self._run(images, None)
        if prefix is None or getattr(self.model, "cls_token", None) is None:
            return last.mean(dim=(2, 3))  # (N, C)
        if self._late_norm(last) is not None:
            return last.mean(dim=(2, 3))  # (N, C): the release pools the patches, not this token
        return prefix[:, 0]  # (N, C)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with timm's names; position embeddings keep the grid of the file."""
        self._resize_grid(state.get("pos_embed"))
        self.model.load_state_dict(state, strict=True)

    def _run(self, images: Tensor, layers: tuple[int, ...] | None) -> Maps:
        """Return [(N, C_i, H/s_i, W/s_i), ...], and class and register tokens (N, R, C) or None."""
        self._check_size(images)
        maps, prefix = self.read(self.model, self.normalise(images), layers, self._shape.norms)
        return [self._apply_late_norm(feature_map) for feature_map in maps], prefix

    def _apply_late_norm(self, feature_map: Tensor) -> Tensor:
        norm = self._late_norm(feature_map)
        if norm is None:
            return feature_map
        pixels = feature_map.permute(0, 2, 3, 1)  # (N, h, w, C)
        pixels = F.layer_norm(pixels, pixels.shape[-1:], norm.weight, norm.bias, norm.eps)
        return pixels.permute(0, 3, 1, 2)  # (N, C, h, w)

    def _late_norm(self, feature_map: Tensor) -> nn.LayerNorm | None:
        """Return the final norm if the model has it in its head, after pooling, and it fits."""
        if isinstance(getattr(self.model, "norm", None), nn.LayerNorm):
            return None
        head = getattr(self.model, "head", None)
        for norm in (getattr(self.model, "fc_norm", None), getattr(head, "norm", None)):
            if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (feature_map.shape[1],):
                return norm
        return None

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if self.fixed_px is not None and (height, width) != (self.fixed_px, self.fixed_px):
            raise BenchError(
                f"{self.model.pretrained_cfg['architecture']} takes images of {self.fixed_px} x "
                f"{self.fixed_px} pixels only, got {height} x {width}: --input-px {self.fixed_px}."
            )
        stride = self.strides[-1]
        if height % stride or width % stride:
            raise BenchError(
                f"{self.model.pretrained_cfg['architecture']} takes sides divisible by {stride}, "
                f"got {height} x {width}: resize or pad the images."
            )

    def _resize_grid(self, positions: Tensor | None) -> None:
        """Give the model the position grid of a checkpoint trained at another size."""
        current = getattr(self.model, "pos_embed", None)
        if positions is None or current is None or self.fixed_px:
            return
        if positions.shape == current.shape:
            return
        if positions.ndim != 3:
            return  # SAM's grid of rows and columns: strict loading reports the shape
        prefix = 0 if getattr(self.model, "no_embed_class", False) else self.model.num_prefix_tokens
        side = math.isqrt(positions.shape[1] - prefix) * self.strides[0]
        self.model.set_input_size((side, side))


def released_state(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Convert a released state dict to the names of a `TimmExtractor`, without its classifier.

    If the names still differ, timm's checkpoint filter of the model's family renames them.
    """
    assert isinstance(extractor, TimmExtractor)
    model = extractor.model
    backbone = _without_classifier(state, model)
    if backbone.keys() == model.state_dict().keys():
        return backbone
    family = sys.modules[type(model).__module__]
    rename = getattr(family, "checkpoint_filter_fn", None)
    if rename is None:
        return backbone
    return _without_classifier(rename(dict(state), model), model)


def _without_classifier(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    classifier = model.pretrained_cfg.get("classifier") or ()
    layers = (classifier,) if isinstance(classifier, str) else classifier
    prefixes = tuple(f"{layer.split('.')[0]}." for layer in layers)
    expected = model.state_dict().keys()
    return {
        name: weight
        for name, weight in state.items()
        if name in expected or not name.startswith(prefixes)
    }
