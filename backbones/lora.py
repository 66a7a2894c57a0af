"""`lora:NAME`: any frozen ViT of which low-rank updates of the attention train (arXiv:2106.09685).

There is no published recipe for few images of nuclei. This one is that of the authors of LoRA for
GPT-2 (their Table 11): AdamW at 2e-4, five times below the rate of the heads, which suits weights
that start at random and not a small change of trained ones; a warm-up of 500 steps, since the head
above is still random then; and a linear fall.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.api import Backbone, BackboneFamily, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import FeatureExtractor

RECIPE = Recipe(lr=2e-4, weight_decay=0.01, schedule="poly", power=1.0, warmup_steps=500)


def _expand(name: str) -> Backbone:
    inner: Backbone = registry.get("backbones", name)

    def build(*, rank: int = 8, alpha: float = 16.0, **options: object) -> FeatureExtractor:
        import torch

        from ._frozen import build_frozen
        from ._lora import LoRAExtractor

        extractor = LoRAExtractor(build_frozen(inner, options), rank=rank, alpha=alpha)
        with torch.device("meta"):
            twin = LoRAExtractor(build_frozen(inner, options), rank=rank, alpha=alpha)
            twin.refuse_idle_weights(inner.input_px or 8 * max(twin.strides))
        return extractor

    def convert(state: Mapping[str, Tensor], extractor: Any) -> Mapping[str, Tensor]:
        with extractor.bare() as bare:
            return inner.convert(state, bare) if inner.convert else state

    build.__signature__ = _signature(build, inner)  # pyright: ignore[reportFunctionMemberAccess]
    return replace(
        inner,
        name=f"lora:{name}",
        build=build,
        convert=convert,
        title=f"{name} with LoRA on its attention",
        paper="https://arxiv.org/abs/2106.09685",
        params=None,
        recipe=RECIPE,
        network=None,
        weights_name=inner.weights_name or inner.name,
    )


def _signature(build: object, inner: Backbone) -> inspect.Signature:
    """Give the options of LoRA, then those of the backbone."""
    assert callable(build)
    *own, _ = inspect.signature(build).parameters.values()
    return inspect.Signature([*own, *inspect.signature(inner.build).parameters.values()])


LORA = BackboneFamily(
    name="lora:",
    expand=_expand,
    title="any frozen ViT with low-rank updates that train: lora:NAME",
)
