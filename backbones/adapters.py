"""Families of trainable adapters on any frozen backbone: `cnn-adapter:NAME` and `lora:NAME`.

`cnn-adapter:uni2-h` with the head `decoder-cup` is "TransUNet 23/704" of Table 5 of
arXiv:2605.08276: 22,821,282 parameters train.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.api import Backbone, BackboneFamily, Recipe

from .transunet import RECIPE as TRANSUNET_RECIPE

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import FeatureExtractor

# No recipe is published for small sets of nuclei. This is that of the LoRA authors for GPT-2 (Table
# 11): a rate five times below that of the heads, which start from random weights, and a warm-up of
# 500 steps, during which the head is still close to random.
LORA_RECIPE = Recipe(lr=2e-4, weight_decay=0.01, schedule="poly", power=1.0, warmup_steps=500)


def _expand_cnn_adapter(name: str) -> Backbone:
    inner: Backbone = registry.get("backbones", name)

    def build(**options: object) -> FeatureExtractor:
        from ._adapters import CNNAdapter, build_frozen

        return CNNAdapter(build_frozen(inner, options))

    def convert(state: Mapping[str, Tensor], extractor: Any) -> Mapping[str, Tensor]:
        return inner.convert(state, extractor.inner) if inner.convert else state

    build.__signature__ = inspect.signature(inner.build)  # pyright: ignore[reportFunctionMemberAccess]
    return replace(
        inner,
        name=f"cnn-adapter:{name}",
        build=build,
        convert=convert,
        title=f"{name}, frozen, with a trainable ResNet in parallel",
        paper="https://arxiv.org/abs/2605.08276",
        params=None,
        default_head="decoder-cup",
        recipe=TRANSUNET_RECIPE,
        network=None,
        weights_name=inner.weights_name or inner.name,
    )


def _expand_lora(name: str) -> Backbone:
    inner: Backbone = registry.get("backbones", name)

    def build(*, rank: int = 8, alpha: float = 16.0, **options: object) -> FeatureExtractor:
        import torch

        from ._adapters import LoRAExtractor, build_frozen

        extractor = LoRAExtractor(build_frozen(inner, options), rank=rank, alpha=alpha)
        with torch.device("meta"):
            copy = LoRAExtractor(build_frozen(inner, options), rank=rank, alpha=alpha)
            copy.check_gradients(inner.input_px or 8 * max(copy.strides))
        return extractor

    def convert(state: Mapping[str, Tensor], extractor: Any) -> Mapping[str, Tensor]:
        with extractor.without_lora() as bare:
            return inner.convert(state, bare) if inner.convert else state

    *lora_options, _ = inspect.signature(build).parameters.values()
    options = [*lora_options, *inspect.signature(inner.build).parameters.values()]
    build.__signature__ = inspect.Signature(options)  # pyright: ignore[reportFunctionMemberAccess]
    return replace(
        inner,
        name=f"lora:{name}",
        build=build,
        convert=convert,
        title=f"{name}, frozen, with LoRA in its attention",
        paper="https://arxiv.org/abs/2106.09685",
        params=None,
        recipe=LORA_RECIPE,
        network=None,
        weights_name=inner.weights_name or inner.name,
    )


CNN_ADAPTER = BackboneFamily(
    name="cnn-adapter:",
    expand=_expand_cnn_adapter,
    title="any frozen backbone with a trainable ResNet in parallel: cnn-adapter:NAME",
)
LORA = BackboneFamily(
    name="lora:",
    expand=_expand_lora,
    title="any frozen ViT with trainable low-rank updates of its attention: lora:NAME",
)
