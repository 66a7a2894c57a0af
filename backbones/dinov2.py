"""DINOv2: ViTs by self-supervision on natural images.

Oquab et al., "DINOv2", 2023; with registers Darcet et al., "Vision transformers need registers",
2023.
"""

from __future__ import annotations

from functools import partial

from bench.api import Backbone

from ._network import Network

_dinov2 = partial(
    Backbone,
    paper="https://arxiv.org/abs/2304.07193",
    license="Apache-2.0",
    trained_on=("LVD-142M",),
)
_S = Network("vit_small_patch14_dinov2.lvd142m")
_B = Network("vit_base_patch14_dinov2.lvd142m")
_L = Network("vit_large_patch14_dinov2.lvd142m")
_L_REG = Network("vit_large_patch14_reg4_dinov2.lvd142m")

DINOV2_S = _dinov2(
    name="dinov2-s",
    build=_S.build,
    convert=_S.convert,
    weights=_S.hosted(),
    title="DINOv2 ViT-S/14, self-supervised on natural images",
    params=22_056_192,
    patch=14,
)

DINOV2_B = _dinov2(
    name="dinov2-b",
    build=_B.build,
    convert=_B.convert,
    weights=_B.hosted(),
    title="DINOv2 ViT-B/14, self-supervised on natural images",
    params=86_579_712,
    patch=14,
)

DINOV2_L = _dinov2(
    name="dinov2-l",
    build=_L.build,
    convert=_L.convert,
    weights=_L.hosted(
        revision="4741e1cafbf45415e77074bb0cb42dba76c8684a",
        sha256="0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
    title="DINOv2 ViT-L/14, self-supervised on natural images",
    params=304_367_616,
    patch=14,
)

DINOV2_L_REG = _dinov2(
    name="dinov2-l-reg",
    build=_L_REG.build,
    convert=_L_REG.convert,
    weights=_L_REG.hosted(),
    title="DINOv2 ViT-L/14 with 4 registers, self-supervised on natural images",
    params=304_370_688,
    patch=14,
)
