"""Models of natural images, by name: what a model of pathology has to beat."""

from __future__ import annotations

from functools import partial

from bench.api import Backbone, Weights

from .timm_family import build_timm, convert_timm


def _released(architecture: str, revision: str | None = None) -> Weights:
    return Weights(repo=f"timm/{architecture}", file="model.safetensors", revision=revision)


DINOV2_S = Backbone(
    name="dinov2-s",
    build=partial(build_timm, "vit_small_patch14_dinov2.lvd142m"),
    weights=_released("vit_small_patch14_dinov2.lvd142m"),
    convert=convert_timm,
    title="DINOv2 ViT-S/14, self-supervised on natural images",
    paper="https://arxiv.org/abs/2304.07193",
    license="Apache-2.0",
    params=22_056_192,
    trained_on=("LVD-142M",),
)

DINOV2_L = Backbone(
    name="dinov2-l",
    build=partial(build_timm, "vit_large_patch14_dinov2.lvd142m"),
    weights=_released(
        "vit_large_patch14_dinov2.lvd142m", "4741e1cafbf45415e77074bb0cb42dba76c8684a"
    ),
    convert=convert_timm,
    title="DINOv2 ViT-L/14, self-supervised on natural images",
    paper="https://arxiv.org/abs/2304.07193",
    license="Apache-2.0",
    params=304_367_616,
    trained_on=("LVD-142M",),
)

CONVNEXTV2_B = Backbone(
    name="convnextv2-b",
    build=partial(build_timm, "convnextv2_base.fcmae_ft_in22k_in1k_384"),
    weights=_released("convnextv2_base.fcmae_ft_in22k_in1k_384"),
    convert=convert_timm,
    title="ConvNeXt V2-B, masked autoencoder, then labels of natural images",
    paper="https://arxiv.org/abs/2301.00808",
    license="CC-BY-NC-4.0",
    params=87_692_800,
    trained_on=("ImageNet-1k", "ImageNet-22k"),
)

MAE_L = Backbone(
    name="mae-l",
    build=partial(build_timm, "vit_large_patch16_224.mae"),
    weights=_released("vit_large_patch16_224.mae"),
    convert=convert_timm,
    title="MAE ViT-L/16, masked autoencoder of natural images",
    paper="https://arxiv.org/abs/2111.06377",
    license="CC-BY-NC-4.0",
    params=303_301_632,
    trained_on=("ImageNet-1k",),
)
