"""Any timm model as a frozen extractor of one map, its last.

Letters: N images, H and W their sides, s the stride (the patch of a ViT), C channels.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.interface import FeatureExtractor

Colour = tuple[float, float, float]


class TimmExtractor(FeatureExtractor):
    """The last map of a timm model, after its final norm; class and register tokens are dropped.

    A ViT takes any sides that its patch divides: position embeddings are resized as timm does
    (bicubic, antialiased). A model that cannot take other sides than its own says so.

    Attributes:
        fixed_px: the only side that the model takes; None where any multiple of the stride will do.
    """

    def __init__(
        self,
        architecture: str,
        *,
        mean: Colour | None = None,
        std: Colour | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Build the model with random weights and without its classifier.

        Args:
            architecture: timm's name, with or without the tag of a release.
            mean, std: where they are not those that timm names for the release.
            options: further arguments of `timm.create_model`.
        """
        super().__init__()
        asked: dict[str, Any] = {"pretrained": False, "num_classes": 0, **options}
        self._shape = _probe(architecture, asked)
        if self._shape.dynamic:
            asked["dynamic_img_size"] = True
        self.model: Any = timm.create_model(architecture, **asked)
        released = self.model.pretrained_cfg
        self.mean = mean or tuple(released["mean"])
        self.std = std or tuple(released["std"])
        self.channels, self.strides = (self._shape.channels,), (self._shape.stride,)
        self.fixed_px: int | None = self._shape.fixed_px
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self._run(images)[0]]  # [(N, C, H/s, W/s)]

    def embed(self, images: Tensor) -> Tensor:
        """Give the normalised class token, or the mean of the map where there is none: (N, C)."""
        last, prefix = self._run(images)
        if prefix is None or getattr(self.model, "cls_token", None) is None:
            return last.mean(dim=(2, 3))  # (N, C)
        if self._late_norm() is not None:
            return last.mean(dim=(2, 3))  # (N, C): the release pools the patches, not this token
        return prefix[:, 0]  # (N, C)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state dict in timm's names, on the grid of position embeddings that it has."""
        self._take_grid(state.get("pos_embed"))
        self.model.load_state_dict(state, strict=True)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the map (N, C, H/s, W/s) and the class and register tokens (N, R, C), if any."""
        self._check_size(images)
        last, prefix = _last(self.model, self.normalise(images), norm=self._shape.norms)
        norm = self._late_norm()
        if norm is not None:
            columns = last.permute(0, 2, 3, 1)  # (N, H/s, W/s, C)
            columns = F.layer_norm(columns, columns.shape[-1:], norm.weight, norm.bias, norm.eps)
            last = columns.permute(0, 3, 1, 2)  # (N, C, H/s, W/s)
        return last, prefix

    def _late_norm(self) -> nn.LayerNorm | None:
        """Find the final norm of a model that has it in its head, after pooling."""
        if isinstance(getattr(self.model, "norm", None), nn.LayerNorm):
            return None
        head = getattr(self.model, "head", None)
        for norm in (getattr(self.model, "fc_norm", None), getattr(head, "norm", None)):
            if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == self.channels:
                return norm
        return None

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if self.fixed_px is not None and (height, width) != (self.fixed_px, self.fixed_px):
            raise BenchError(
                f"{self.model.pretrained_cfg['architecture']} takes images of {self.fixed_px} x "
                f"{self.fixed_px} pixels alone, got {height} x {width}: --input-px {self.fixed_px}."
            )
        stride = self.strides[0]
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


@dataclass(frozen=True)
class _Shape:
    """What a model is, found by running it once on the meta device.

    Attributes:
        norms: whether it can apply its own final norm to the map.
        dynamic: whether it takes other sides than those that it was built for, if told so.
    """

    channels: int
    stride: int
    norms: bool
    dynamic: bool
    fixed_px: int | None


def _probe(architecture: str, asked: Mapping[str, Any]) -> _Shape:
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, **asked).eval()
        released = model.pretrained_cfg
        dynamic = any("dynamic_img_size" in _parameters(kind) for kind in type(model).__mro__[:-1])
        side = asked.get("img_size") or released["input_size"][-1]
        fixed = bool(released.get("fixed_input_size"))
        if not fixed:
            side = 8 * model.feature_info[-1]["reduction"]
        norms, last = _probed_map(architecture, model, torch.empty(1, 3, side, side))
    stride, rest = divmod(side, last.shape[-1])
    if rest:
        raise BenchError(
            f"timm's {architecture} cannot be a dense extractor: its last map has "
            f"{last.shape[-1]} pixels a side for {side} of the image, which is no whole fraction."
        )
    return _Shape(last.shape[1], stride, norms, dynamic, side if fixed and not dynamic else None)


def _probed_map(architecture: str, model: Any, images: Tensor) -> tuple[bool, Tensor]:
    """Run a model with its final norm, or without: a few have none to apply, and assert so."""
    reason = ""
    for norms in (True, False):
        try:
            return norms, _last(model, images, norm=norms)[0]
        except (AssertionError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__} {error}"
    raise BenchError(f"timm's {architecture} cannot be a dense extractor: {reason}")


def _last(model: Any, images: Tensor, *, norm: bool) -> tuple[Tensor, Tensor | None]:
    """Run a model for its last map (N, C, H/s, W/s) and its prefix tokens (N, R, C), if any."""
    takes = inspect.signature(model.forward_intermediates).parameters
    has_tokens = "return_prefix_tokens" in takes and model.num_prefix_tokens > 0
    found = model.forward_intermediates(
        images,
        indices=1,
        norm=norm,
        output_fmt="NCHW",
        intermediates_only=True,
        **({"return_prefix_tokens": True} if has_tokens else {}),
    )[-1]
    return found if isinstance(found, tuple) else (found, None)


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters
