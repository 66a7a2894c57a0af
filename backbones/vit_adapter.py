"""ViT-Adapter: a plain ViT with a convolutional pyramid beside it, trained end to end.

It starts from random weights. `--checkpoint` takes a whole adapter, or a plain ViT in timm's names
(DeiT as in the paper, MAE, or a pathology model of that shape), which fills the ViT alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Backbone, Recipe, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api import FeatureExtractor

UNUSED = ("cls_token", "norm.", "fc_norm.", "head.")  # what a plain ViT has and the adapter leaves


def build_base(*, drop_path: float = 0.3) -> FeatureExtractor:
    """Build it over a ViT-B/16, that of DeiT-B."""
    from ._vit_adapter import ViTAdapter

    return ViTAdapter(768, 12, 12, drop_path=drop_path)


def build_large(*, drop_path: float = 0.4) -> FeatureExtractor:
    """Build it over a ViT-L/16 with positions learned at 384 pixels."""
    from ._vit_adapter import ViTAdapter

    return ViTAdapter(1024, 24, 16, grid=24, drop_path=drop_path)


def convert(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Take a whole adapter as it is; put a plain ViT, in timm's names, beside a fresh adapter.

    A ViT that has no layer scale keeps the gains of 1 that it is built with.
    """
    if any(name.startswith("vit.") for name in state):
        return state
    adapter = {
        name: each
        for name, each in extractor.state_dict().items()
        if not name.startswith("vit.") or name.endswith((".ls1", ".ls2"))
    }
    return adapter | {
        f"vit.{_renamed(name)}": each for name, each in state.items() if not name.startswith(UNUSED)
    }


def _renamed(name: str) -> str:
    return name.replace("patch_embed.proj.", "patch_embed.").removesuffix(".gamma")


# The original takes 16 images a step, for 160,000 steps on 20,000 images. Sets of nuclei have tens
# of images: 8 a step leave twice as many steps.
VIT_ADAPTER_B = Backbone(
    name="vit-adapter-b",
    build=build_base,
    weights=Weights(needed=False),
    convert=convert,
    title="ViT-Adapter over a ViT-B/16, trained end to end",
    paper="https://arxiv.org/abs/2205.08534",
    license="none needed",
    params=99_495_392,
    patch=16,
    default_head="upernet",
    recipe=Recipe(
        lr=6e-5,
        weight_decay=0.01,
        schedule="poly",
        power=1.0,
        warmup_steps=1500,
        layer_decay=0.95,
        augment="photometric",
    ),
)

VIT_ADAPTER_L = Backbone(
    name="vit-adapter-l",
    build=build_large,
    weights=Weights(needed=False),
    convert=convert,
    title="ViT-Adapter over a ViT-L/16, trained end to end",
    paper="https://arxiv.org/abs/2205.08534",
    license="none needed",
    params=326_973_632,
    patch=16,
    default_head="upernet",
    recipe=Recipe(
        lr=2e-5,
        weight_decay=0.05,
        schedule="poly",
        power=1.0,
        warmup_steps=1500,
        layer_decay=0.95,
        augment="photometric",
    ),
)
