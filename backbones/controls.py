"""The controls that every board needs: the image itself, and a ViT that was never trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

if TYPE_CHECKING:
    from bench.api import FeatureExtractor


def _build_rgb() -> FeatureExtractor:
    from ._rgb import RGBExtractor

    return RGBExtractor()


def _build_random_vit() -> FeatureExtractor:
    from ._timm import TimmExtractor

    return TimmExtractor(
        "vit_small_patch16_224", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


RGB = Backbone(
    name="rgb",
    build=_build_rgb,
    weights=Weights(needed=False),
    title="control: the image itself, one map of three channels",
    license="none needed",
    params=0,
)

RANDOM_VIT_S = Backbone(
    name="random-vit-s",
    build=_build_random_vit,
    weights=Weights(needed=False),
    title="control: a ViT-S/16 with the random weights it starts with",
    paper="https://arxiv.org/abs/2010.11929",
    license="none needed",
    params=21_665_664,
)
