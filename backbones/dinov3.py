"""DINOv3: ViTs and ConvNeXts by self-supervision on natural images.

Siméoni et al., "DINOv3", 2025. The ViTs have rotary positions; the ConvNeXts give the last map, of
stride 32, after the final norm.
"""

from __future__ import annotations

from functools import partial

from bench.api import Backbone

from ._network import Network

_dinov3 = partial(
    Backbone,
    paper="https://arxiv.org/abs/2508.10104",
    license="dinov3-license",
    trained_on=("LVD-1689M",),
)
_S = Network("vit_small_patch16_dinov3.lvd1689m")
_B = Network("vit_base_patch16_dinov3.lvd1689m")
_L = Network("vit_large_patch16_dinov3.lvd1689m")
_H = Network("vit_huge_plus_patch16_dinov3.lvd1689m")
_CONVNEXT_B = Network("convnext_base.dinov3_lvd1689m")
_CONVNEXT_L = Network("convnext_large.dinov3_lvd1689m")

DINOV3_S = _dinov3(
    name="dinov3-s",
    build=_S.build,
    convert=_S.convert,
    weights=_S.hosted(),
    title="DINOv3 ViT-S/16, self-supervised on natural images",
    params=21_586_944,
    patch=16,
)

DINOV3_B = _dinov3(
    name="dinov3-b",
    build=_B.build,
    convert=_B.convert,
    weights=_B.hosted(),
    title="DINOv3 ViT-B/16, self-supervised on natural images",
    params=85_641_216,
    patch=16,
)

DINOV3_L = _dinov3(
    name="dinov3-l",
    build=_L.build,
    convert=_L.convert,
    weights=_L.hosted(),
    title="DINOv3 ViT-L/16, self-supervised on natural images",
    params=303_079_424,
    patch=16,
)

DINOV3_H = _dinov3(
    name="dinov3-h",
    build=_H.build,
    convert=_H.convert,
    weights=_H.hosted(),
    title="DINOv3 ViT-H+/16, self-supervised on natural images",
    params=840_509_440,
    patch=16,
)

DINOV3_CONVNEXT_B = _dinov3(
    name="dinov3-convnext-b",
    build=_CONVNEXT_B.build,
    convert=_CONVNEXT_B.convert,
    weights=_CONVNEXT_B.hosted(),
    title="DINOv3 ConvNeXt-B, self-supervised on natural images",
    params=87_566_464,
)

DINOV3_CONVNEXT_L = _dinov3(
    name="dinov3-convnext-l",
    build=_CONVNEXT_L.build,
    convert=_CONVNEXT_L.convert,
    weights=_CONVNEXT_L.hosted(),
    title="DINOv3 ConvNeXt-L, self-supervised on natural images",
    params=196_230_336,
)
