"""Control backbones: the RGB image, an untrained ViT, and constant predictions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

if TYPE_CHECKING:
    from bench.api import FeatureExtractor

CONSTANT_PX = 16  # small, because the maps of every image are cached


def _build_rgb() -> FeatureExtractor:
    from ._controls import RGBExtractor

    return RGBExtractor()


def _build_constant(predicted: int) -> FeatureExtractor:
    from ._controls import ConstantExtractor

    return ConstantExtractor(predicted)


RGB = Backbone(
    name="rgb",
    build=_build_rgb,
    weights=Weights(needed=False),
    title="control: the RGB image as a map of three channels",
    license="none needed",
    params=0,
)

RANDOM_VIT_S = Backbone(
    name="random-vit-s",
    build=Network("vit_small_patch16_224", colours=IMAGENET).build,
    weights=Weights(needed=False),
    title="control: ViT-S/16 with random weights",
    paper="https://arxiv.org/abs/2010.11929",
    license="none needed",
    params=21_665_664,
    patch=16,
)

ALL_BACKGROUND = Backbone(
    name="all-background",
    build=partial(_build_constant, 0),
    weights=Weights(needed=False),
    title="control: predicts background everywhere",
    license="none needed",
    params=0,
    input_px=CONSTANT_PX,
    default_head="logits",
)

ALL_FOREGROUND = Backbone(
    name="all-foreground",
    build=partial(_build_constant, 1),
    weights=Weights(needed=False),
    title="control: predicts nucleus everywhere",
    license="none needed",
    params=0,
    input_px=CONSTANT_PX,
    default_head="logits",
)
