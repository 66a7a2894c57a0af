"""ViT-Adapter: a plain ViT and a parallel convolutional pyramid, trained end to end.

Training starts from random weights. `--checkpoint` takes a complete ViT-Adapter, or a plain ViT
with timm's names (DeiT as in the paper, MAE, or a pathology model of the same shape), which
initialises only the ViT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Backbone, Recipe, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api import FeatureExtractor

UNUSED = (
    "cls_token",
    "norm.",
    "fc_norm.",
    "head.",
)  # weights of a plain ViT that the adapter does not have


def build_base(*, drop_path: float = 0.3) -> FeatureExtractor:
    """Build a ViT-Adapter on the ViT-B/16 of DeiT-B."""
    from ._vit_adapter import ViTAdapter

    return ViTAdapter(768, 12, 12, drop_path=drop_path)


def build_large(*, drop_path: float = 0.4) -> FeatureExtractor:
    """Build a ViT-Adapter on a ViT-L/16 with position embeddings for 384 pixels."""
    from ._vit_adapter import ViTAdapter

    return ViTAdapter(1024, 24, 16, grid=24, drop_path=drop_path)


def convert(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Complete the state dict of a plain ViT (timm's names) with the extractor's other weights.

    The state dict of a ViT-Adapter is returned as it is. Layer scales that the plain ViT lacks are
    those of the extractor, 1.
    """
    if any(name.startswith("vit.") for name in state):
        return state
    adapter = {
        name: weight
        for name, weight in extractor.state_dict().items()
        if not name.startswith("vit.") or name.endswith((".ls1", ".ls2"))
    }
    vit = {}
    for name, weight in state.items():
        if not name.startswith(UNUSED):
            renamed = name.replace("patch_embed.proj.", "patch_embed.").removesuffix(".gamma")
            vit[f"vit.{renamed}"] = weight
    return adapter | vit


# The batch size is the default of 8, not the 16 of the paper (160,000 steps on 20,000 images):
# nuclei data sets have tens of images, and smaller batches give more steps.
VIT_ADAPTER_B = Backbone(
    name="vit-adapter-b",
    build=build_base,
    weights=Weights(needed=False),
    convert=convert,
    title="ViT-Adapter on a ViT-B/16, trained end to end",
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
    title="ViT-Adapter on a ViT-L/16, trained end to end",
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
