"""Trainable modules on a frozen backbone: the CNN of TransUNet, and LoRA.

Letters: N images, H and W their sides in pixels, C_i channels and s_i stride of map i, C and s
those of the backbone's last map, D width of `embed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from bench.api import Backbone
from bench.api.nn import FeatureExtractor
from bench.errors import BenchError

from ._resnetv2 import ResNetV2

SKIPS = 3  # maps of the ResNet, at strides 2, 4 and 8
LORA_LAYERS = ("attn.qkv", "attn.proj")  # timm's names of the linear layers of attention


def build_frozen(inner: Backbone, options: Mapping[str, object]) -> FeatureExtractor:
    """Build a backbone with random weights.

    Raises:
        BenchError: it has trainable parameters.
    """
    extractor = inner.build(**options)
    trainable = sum(weight.numel() for weight in extractor.parameters() if weight.requires_grad)
    if trainable:
        raise BenchError(
            f"{inner.name} trains {trainable:,} parameters itself, and only a frozen backbone can "
            "be adapted: use it without an adapter, or choose another."
        )
    return extractor


class AdaptedExtractor(FeatureExtractor):
    """Base class: an extractor around a frozen one, which stays in evaluation mode.

    Files of weights are those of the inner extractor.
    """

    def __init__(self, inner: FeatureExtractor) -> None:
        super().__init__()
        self.inner = inner.eval()
        self.channels, self.strides = tuple(inner.channels), tuple(inner.strides)
        self.mean, self.std = inner.mean, inner.std
        self.facts = inner.facts

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every module except the inner extractor."""
        super().train(mode)
        self.inner.eval()
        return self

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict of the inner extractor."""
        self.inner.load(state)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the trainable parameters as one group."""
        return [[weight for weight in self.parameters() if weight.requires_grad]]


class CNNAdapter(AdaptedExtractor):
    """TransUNet with a frozen extractor in place of its ViT.

    The maps are those of a ResNet at strides 2, 4 and 8, of sides H // 2, H // 4 and H // 8, and
    the last map of the extractor. Only the extractor limits the sides of images.

    The third stage of the ResNet is built because the 22,821,282 trainable parameters of "TransUNet
    23/704" (arXiv:2605.08276, Table 5) include it. It is never run and gets no gradient.
    """

    def __init__(
        self, inner: FeatureExtractor, *, width: int = 64, units: Sequence[int] = (3, 4, 9)
    ) -> None:
        """Build the ResNet with random weights; `width` and `units` are those of `ResNetV2`.

        Raises:
            BenchError: the stride of the extractor's last map is below 8.
        """
        super().__init__(inner)
        self.cnn = ResNetV2(width, units)
        self.channels = (*self.cnn.channels[:SKIPS], inner.channels[-1])
        self.strides = (*self.cnn.strides[:SKIPS], inner.strides[-1])
        if self.strides[-1] < self.strides[-2]:
            raise BenchError(
                "a CNN adapter has maps at strides 2, 4 and 8 and needs a backbone whose last map "
                f"has stride 8 or more; this one's has stride {self.strides[-1]}."
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        with torch.no_grad():
            last = self.inner(images)[-1]  # (N, C, H/s, W/s)
        maps = self.cnn(self.normalise(images), levels=SKIPS)
        cropped = [
            feature_map[..., : height // stride, : width // stride]  # (N, C_i, H/s_i, W/s_i)
            for feature_map, stride in zip(maps, self.strides, strict=False)
        ]
        return [*cropped, last]


class LoRAExtractor(AdaptedExtractor):
    """A frozen ViT with LoRA in every attention; before training, the maps are unchanged.

    Low-rank adaptation (Hu et al., ICLR 2022, arXiv:2106.09685) changes a linear layer W x to
    W x + (alpha / r) B A x. A (r, in) starts random and B (out, r) at zero; both train. The layers
    are those of peft.
    """

    def __init__(self, inner: FeatureExtractor, *, rank: int, alpha: float) -> None:
        """Replace the linear layers of the extractor's attention, in place.

        Raises:
            BenchError: it has no such layers, an option is out of range, or peft is not installed.
        """
        super().__init__(inner)
        if rank < 1 or alpha <= 0:
            raise BenchError(f"LoRA takes a rank and an alpha above 0, got {rank} and {alpha}.")
        _insert_lora(inner, rank, alpha)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.inner(images)  # [(N, C_i, H/s_i, W/s_i), ...]

    def embed(self, images: Tensor) -> Tensor:
        """Return the inner extractor's embedding of whole images: (N, D)."""
        return self.inner.embed(images)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict of the inner extractor; the weights of LoRA stay."""
        with self.without_lora() as inner:
            inner.load(state)

    @contextmanager
    def without_lora(self) -> Iterator[FeatureExtractor]:
        """Remove LoRA inside the context, so that the inner extractor has its original names."""
        from peft.tuners.lora import LoraLayer  # pyright: ignore

        adapted: dict[str, Any] = {
            name: module
            for name, module in self.inner.named_modules()
            if isinstance(module, LoraLayer)
        }
        for name, layer in adapted.items():
            self.inner.set_submodule(name, layer.get_base_layer())
        try:
            yield self.inner
        finally:
            for name, layer in adapted.items():
                self.inner.set_submodule(name, layer)

    def check_gradients(self, side_px: int) -> None:
        """Check on one empty image of that side that the maps depend on every weight of LoRA.

        Some networks read the matrix of a linear layer without calling the layer, so that LoRA
        would be counted but never trained. On the meta device the check costs nothing.

        Raises:
            BenchError: a weight has no gradient; the message names the first.
        """
        weights = {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
        maps = self(torch.empty(1, 3, side_px, side_px))
        total = torch.stack([feature_map.sum() for feature_map in maps]).sum()
        gradients = torch.autograd.grad(total, [*weights.values()], allow_unused=True)
        unused = [
            name for name, gradient in zip(weights, gradients, strict=True) if gradient is None
        ]
        if unused:
            raise BenchError(
                f"LoRA cannot train this backbone: the maps do not depend on {len(unused)} of its "
                f"{len(weights)} weights, such as {unused[0]}. Choose another backbone."
            )


def _insert_lora(inner: FeatureExtractor, rank: int, alpha: float) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore
    except ImportError as error:
        raise BenchError("LoRA needs peft: `pip install 'cmd-bench[lora]'`.") from error
    linear = [name for name, module in inner.named_modules() if isinstance(module, nn.Linear)]
    if not all(any(name.endswith(f".{layer}") for name in linear) for layer in LORA_LAYERS):
        raise BenchError(
            f"LoRA adapts the linear layers {' and '.join(LORA_LAYERS)} of a ViT; this backbone "
            "does not have both. Choose another, for example a ViT of timm."
        )
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_LAYERS)),  # type: ignore[arg-type]
        inner,
    )
