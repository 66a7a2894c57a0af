"""Low-rank adaptation (LoRA; Hu et al., ICLR 2022, arXiv:2106.09685) of a frozen ViT.

A linear layer W x becomes W x + (alpha / r) B A x; A (r, in) starts at random, B (out, r) at 0, and
both train. The layers are peft's.

Letters: N images, H and W their sides, C_i channels and s_i stride of map i, D width of `embed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.interface import FeatureExtractor

from ._frozen import OnFrozen

LAYERS = ("attn.qkv", "attn.proj")  # as timm calls the linear layers of attention


class LoRAExtractor(OnFrozen):
    """A frozen extractor with LoRA on every attention of its ViT; before training, equal maps."""

    def __init__(self, inner: FeatureExtractor, *, rank: int, alpha: float) -> None:
        """Take the extractor over: its linear layers are replaced in place.

        Raises:
            BenchError: it has no such layers, a setting is out of range, or peft is not installed.
        """
        super().__init__(inner)
        if rank < 1 or alpha <= 0:
            raise BenchError(f"LoRA takes a rank and an alpha above 0, got {rank} and {alpha}.")
        _insert(inner, rank, alpha)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.inner(images)  # [(N, C_i, H/s_i, W/s_i), ...]

    def embed(self, images: Tensor) -> Tensor:
        """Describe whole images as the inner extractor does: (N, D)."""
        return self.inner.embed(images)

    def load(self, state: Mapping[str, Tensor]) -> None:
        with self.bare() as inner:
            inner.load(state)

    @contextmanager
    def bare(self) -> Iterator[FeatureExtractor]:
        """Give the inner extractor under the names of its release, LoRA taken out for that time."""
        from peft.tuners.lora import LoraLayer  # pyright: ignore

        parts = self.inner.named_modules()
        adapted: dict[str, Any] = {
            name: part for name, part in parts if isinstance(part, LoraLayer)
        }
        for name, part in adapted.items():
            self.inner.set_submodule(name, part.get_base_layer())
        try:
            yield self.inner
        finally:
            for name, part in adapted.items():
                self.inner.set_submodule(name, part)

    def refuse_idle_weights(self, side_px: int) -> None:
        """Run one empty image of that side and raise where a weight of LoRA has no part in it.

        Some networks read the matrix of a linear layer and do not call the layer: LoRA there would
        be counted and never trained. Meant for the meta device, where it costs nothing.

        Raises:
            BenchError: names the first such weight.
        """
        weights = {name: each for name, each in self.named_parameters() if each.requires_grad}
        total = torch.stack(
            [each.sum() for each in self(torch.empty(1, 3, side_px, side_px))]
        ).sum()
        slopes = torch.autograd.grad(total, [*weights.values()], allow_unused=True)
        idle = [name for name, slope in zip(weights, slopes, strict=True) if slope is None]
        if idle:
            raise BenchError(
                f"LoRA cannot train this backbone: {len(idle)} of its {len(weights)} weights, as "
                f"{idle[0]}, have no part in the maps. Choose another backbone."
            )


def _insert(inner: FeatureExtractor, rank: int, alpha: float) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore
    except ImportError as error:
        raise BenchError("LoRA needs a library: `pip install 'cmd-bench[lora]'`.") from error
    linear = [name for name, part in inner.named_modules() if isinstance(part, nn.Linear)]
    if not all(any(name.endswith(f".{layer}") for name in linear) for layer in LAYERS):
        raise BenchError(
            f"LoRA adapts the linear layers {' and '.join(LAYERS)} of a ViT; this backbone does "
            "not have both. Choose another, for example a ViT of timm."
        )
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LAYERS)),  # type: ignore[arg-type]
        inner,
    )
