"""`cnn-adapter:NAME`: any frozen backbone with TransUNet's CNN beside it, which trains.

`cnn-adapter:uni2-h` is "TransUNet 23/704" of Table 5 of arXiv:2605.08276: with the head
`decoder-cup`, 22,821,282 parameters train.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.api import Backbone, BackboneFamily

from .transunet import RECIPE

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import FeatureExtractor


def _expand(name: str) -> Backbone:
    inner: Backbone = registry.get("backbones", name)

    def build(**options: object) -> FeatureExtractor:
        from ._cnn_adapter import CNNAdapter
        from ._frozen import build_frozen

        return CNNAdapter(build_frozen(inner, options))

    def convert(state: Mapping[str, Tensor], extractor: Any) -> Mapping[str, Tensor]:
        return inner.convert(state, extractor.inner) if inner.convert else state

    build.__signature__ = inspect.signature(inner.build)  # pyright: ignore[reportFunctionMemberAccess]
    return replace(
        inner,
        name=f"cnn-adapter:{name}",
        build=build,
        convert=convert,
        title=f"{name}, frozen, with a trainable ResNet beside it",
        paper="https://arxiv.org/abs/2605.08276",
        params=None,
        default_head="decoder-cup",
        recipe=RECIPE,
        network=None,
        weights_name=inner.weights_name or inner.name,
    )


CNN_ADAPTER = BackboneFamily(
    name="cnn-adapter:",
    expand=_expand,
    title="any frozen backbone with a trainable ResNet beside it: cnn-adapter:NAME",
)
