"""Backbones pretrained on natural images: DINOv2, DINOv3, ConvNeXt V2, MAE and SAM.

They are the reference that a pathology model has to exceed. Oquab et al., "DINOv2", 2023, with
registers Darcet et al., "Vision transformers need registers", 2023; Siméoni et al., "DINOv3", 2025;
Woo et al., "ConvNeXt V2", 2023; He et al., "Masked autoencoders are scalable vision learners",
2021; Kirillov et al., "Segment Anything", ICCV 2023.
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
_DINOV2_S = Network("vit_small_patch14_dinov2.lvd142m")
_DINOV2_B = Network("vit_base_patch14_dinov2.lvd142m")
_DINOV2_L = Network("vit_large_patch14_dinov2.lvd142m")
_DINOV2_L_REG = Network("vit_large_patch14_reg4_dinov2.lvd142m")

DINOV2_S = _dinov2(
    name="dinov2-s",
    build=_DINOV2_S.build,
    convert=_DINOV2_S.convert,
    weights=_DINOV2_S.hosted(),
    title="DINOv2 ViT-S/14, self-supervised on natural images",
    params=22_056_192,
    patch=14,
)

DINOV2_B = _dinov2(
    name="dinov2-b",
    build=_DINOV2_B.build,
    convert=_DINOV2_B.convert,
    weights=_DINOV2_B.hosted(),
    title="DINOv2 ViT-B/14, self-supervised on natural images",
    params=86_579_712,
    patch=14,
)

DINOV2_L = _dinov2(
    name="dinov2-l",
    build=_DINOV2_L.build,
    convert=_DINOV2_L.convert,
    weights=_DINOV2_L.hosted(
        revision="4741e1cafbf45415e77074bb0cb42dba76c8684a",
        sha256="0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
    title="DINOv2 ViT-L/14, self-supervised on natural images",
    params=304_367_616,
    patch=14,
)

DINOV2_L_REG = _dinov2(
    name="dinov2-l-reg",
    build=_DINOV2_L_REG.build,
    convert=_DINOV2_L_REG.convert,
    weights=_DINOV2_L_REG.hosted(),
    title="DINOv2 ViT-L/14 with 4 registers, self-supervised on natural images",
    params=304_370_688,
    patch=14,
)

# The map of the ConvNeXts is the last, of stride 32, after the final norm.
_dinov3 = partial(
    Backbone,
    paper="https://arxiv.org/abs/2508.10104",
    license="dinov3-license",
    trained_on=("LVD-1689M",),
)
_DINOV3_S = Network("vit_small_patch16_dinov3.lvd1689m")
_DINOV3_B = Network("vit_base_patch16_dinov3.lvd1689m")
_DINOV3_L = Network("vit_large_patch16_dinov3.lvd1689m")
_DINOV3_H = Network("vit_huge_plus_patch16_dinov3.lvd1689m")
_DINOV3_CONVNEXT_B = Network("convnext_base.dinov3_lvd1689m")
_DINOV3_CONVNEXT_L = Network("convnext_large.dinov3_lvd1689m")

DINOV3_S = _dinov3(
    name="dinov3-s",
    build=_DINOV3_S.build,
    convert=_DINOV3_S.convert,
    weights=_DINOV3_S.hosted(),
    title="DINOv3 ViT-S/16, self-supervised on natural images",
    params=21_586_944,
    patch=16,
)

DINOV3_B = _dinov3(
    name="dinov3-b",
    build=_DINOV3_B.build,
    convert=_DINOV3_B.convert,
    weights=_DINOV3_B.hosted(),
    title="DINOv3 ViT-B/16, self-supervised on natural images",
    params=85_641_216,
    patch=16,
)

DINOV3_L = _dinov3(
    name="dinov3-l",
    build=_DINOV3_L.build,
    convert=_DINOV3_L.convert,
    weights=_DINOV3_L.hosted(),
    title="DINOv3 ViT-L/16, self-supervised on natural images",
    params=303_079_424,
    patch=16,
)

DINOV3_H = _dinov3(
    name="dinov3-h",
    build=_DINOV3_H.build,
    convert=_DINOV3_H.convert,
    weights=_DINOV3_H.hosted(),
    title="DINOv3 ViT-H+/16, self-supervised on natural images",
    params=840_509_440,
    patch=16,
)

DINOV3_CONVNEXT_B = _dinov3(
    name="dinov3-convnext-b",
    build=_DINOV3_CONVNEXT_B.build,
    convert=_DINOV3_CONVNEXT_B.convert,
    weights=_DINOV3_CONVNEXT_B.hosted(),
    title="DINOv3 ConvNeXt-B, self-supervised on natural images",
    params=87_566_464,
)

DINOV3_CONVNEXT_L = _dinov3(
    name="dinov3-convnext-l",
    build=_DINOV3_CONVNEXT_L.build,
    convert=_DINOV3_CONVNEXT_L.convert,
    weights=_DINOV3_CONVNEXT_L.hosted(),
    title="DINOv3 ConvNeXt-L, self-supervised on natural images",
    params=196_230_336,
)

_convnextv2 = partial(
    Backbone,
    paper="https://arxiv.org/abs/2301.00808",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k", "ImageNet-22k"),
)
_CONVNEXTV2_B = Network("convnextv2_base.fcmae_ft_in22k_in1k_384")
_CONVNEXTV2_L = Network("convnextv2_large.fcmae_ft_in22k_in1k_384")
_MAE_L = Network("vit_large_patch16_224.mae")

CONVNEXTV2_B = _convnextv2(
    name="convnextv2-b",
    build=_CONVNEXTV2_B.build,
    convert=_CONVNEXTV2_B.convert,
    weights=_CONVNEXTV2_B.hosted(),
    title="ConvNeXt V2-B, masked autoencoder, then supervised on ImageNet",
    params=87_692_800,
)

CONVNEXTV2_L = _convnextv2(
    name="convnextv2-l",
    build=_CONVNEXTV2_L.build,
    convert=_CONVNEXTV2_L.convert,
    weights=_CONVNEXTV2_L.hosted(),
    title="ConvNeXt V2-L, masked autoencoder, then supervised on ImageNet",
    params=196_419_840,
)

MAE_L = Backbone(
    name="mae-l",
    build=_MAE_L.build,
    convert=_MAE_L.convert,
    weights=_MAE_L.hosted(),
    title="MAE ViT-L/16, masked autoencoder on natural images",
    paper="https://arxiv.org/abs/2111.06377",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k",),
    params=303_301_632,
    patch=16,
)

# The map is the image embedding of 256 channels, after SAM's neck; `layers` selects blocks of the
# trunk. Training started from masked autoencoders.
_sam = partial(
    Backbone,
    paper="https://arxiv.org/abs/2304.02643",
    license="Apache-2.0",
    trained_on=("SA-1B",),
)
_SAM_B = Network("samvit_base_patch16.sa1b")
_SAM_L = Network("samvit_large_patch16.sa1b")
_SAM_H = Network("samvit_huge_patch16.sa1b")

SAM_B = _sam(
    name="sam-b",
    build=_SAM_B.build,
    convert=_SAM_B.convert,
    weights=_SAM_B.hosted(),
    title="SAM image encoder, ViT-B/16, supervised by masks of natural images",
    params=89_670_912,
    patch=16,
)

SAM_L = _sam(
    name="sam-l",
    build=_SAM_L.build,
    convert=_SAM_L.convert,
    weights=_SAM_L.hosted(),
    title="SAM image encoder, ViT-L/16, supervised by masks of natural images",
    params=308_278_272,
    patch=16,
)

SAM_H = _sam(
    name="sam-h",
    build=_SAM_H.build,
    convert=_SAM_H.convert,
    weights=_SAM_H.hosted(),
    title="SAM image encoder, ViT-H/16, supervised by masks of natural images",
    params=637_026_048,
    patch=16,
)
