"""The controls that every board needs: the image itself, an untrained ViT, constant answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

if TYPE_CHECKING:
    from bench.api import FeatureExtractor

CONSTANT_PX = 16  # of an input that is not looked at: its maps are kept for every image


def _build_rgb() -> FeatureExtractor:
    from ._rgb import RGBExtractor

    return RGBExtractor()


def _build_constant(chosen: int) -> FeatureExtractor:
    from ._constant import ConstantExtractor

    return ConstantExtractor(chosen)


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
    build=Network("vit_small_patch16_224", colours=IMAGENET).build,
    weights=Weights(needed=False),
    title="control: a ViT-S/16 with the random weights it starts with",
    paper="https://arxiv.org/abs/2010.11929",
    license="none needed",
    params=21_665_664,
    patch=16,
)

ALL_BACKGROUND = Backbone(
    name="all-background",
    build=partial(_build_constant, 0),
    weights=Weights(needed=False),
    title="control: nothing is a nucleus",
    license="none needed",
    params=0,
    input_px=CONSTANT_PX,
    default_head="logits",
)

ALL_FOREGROUND = Backbone(
    name="all-foreground",
    build=partial(_build_constant, 1),
    weights=Weights(needed=False),
    title="control: every pixel is a nucleus",
    license="none needed",
    params=0,
    input_px=CONSTANT_PX,
    default_head="logits",
)
