"""Models by kaiko.ai trained on TCGA, and OpenMidnight by Sophont, which reproduces one of them.

Mean and std are 0.5, unlike in timm's configuration of the mirrored files. The ViT-L/14 has the
position grid of 518 pixels that its training started from. kaiko.ai et al., "Towards large-scale
training of pathology foundation models", 2024; Karasikov et al., "Training state-of-the-art
pathology foundation models with orders of magnitude less data", MICCAI 2025.
"""

from __future__ import annotations

from functools import partial

from bench.api import Backbone, Weights

from ._keys import DINOV2, TRANSFORMERS_DINOV2
from ._network import HALF, IMAGENET, Network

_MIRROR = "1aurent/{}.kaiko_ai_towards_large_pathology_fms"
_kaiko = partial(
    Backbone,
    paper="https://arxiv.org/abs/2404.15217",
    license="Kaiko Non-Commercial Public License v1",
    trained_on=("TCGA",),
)
_S16 = Network("vit_small_patch16_224", colours=HALF)
_S8 = Network("vit_small_patch8_224", colours=HALF)
_B16 = Network("vit_base_patch16_224", colours=HALF)
_B8 = Network("vit_base_patch8_224", colours=HALF)
_L14 = Network("vit_large_patch14_reg4_dinov2", {"img_size": 518}, HALF, DINOV2)
_MIDNIGHT = Network("vit_giant_patch14_dinov2", {"img_size": 224}, HALF, TRANSFORMERS_DINOV2)

KAIKO_S16 = _kaiko(
    name="kaiko-s16",
    build=_S16.build,
    convert=_S16.convert,
    weights=Weights(repo=_MIRROR.format("vit_small_patch16_224"), file="model.safetensors"),
    title="Kaiko ViT-S/16 by DINO on TCGA",
    params=21_665_664,
    patch=16,
)

KAIKO_S8 = _kaiko(
    name="kaiko-s8",
    build=_S8.build,
    convert=_S8.convert,
    weights=Weights(repo=_MIRROR.format("vit_small_patch8_224"), file="model.safetensors"),
    title="Kaiko ViT-S/8 by DINO on TCGA",
    params=21_670_272,
    patch=8,
)

KAIKO_B16 = _kaiko(
    name="kaiko-b16",
    build=_B16.build,
    convert=_B16.convert,
    weights=Weights(repo=_MIRROR.format("vit_base_patch16_224"), file="model.safetensors"),
    title="Kaiko ViT-B/16 by DINO on TCGA",
    params=85_798_656,
    patch=16,
)

KAIKO_B8 = _kaiko(
    name="kaiko-b8",
    build=_B8.build,
    convert=_B8.convert,
    weights=Weights(repo=_MIRROR.format("vit_base_patch8_224"), file="model.safetensors"),
    title="Kaiko ViT-B/8 by DINO on TCGA",
    params=85_807_872,
    patch=8,
)

KAIKO_L14 = _kaiko(
    name="kaiko-l14",
    build=_L14.build,
    convert=_L14.convert,
    weights=Weights(
        repo=_MIRROR.format("vit_large_patch14_reg4_224"),
        file="model.safetensors",
        revision="fb802e347d2c59f05207b70ad75f7df30019c188",
        sha256="149c8b21c60a7115a17572073b09ef142411c91b5194c84a99ebba8b83f20e69",
    ),
    title="Kaiko ViT-L/14 with 4 registers by DINOv2 on TCGA",
    params=304_370_688,
    patch=14,
)

MIDNIGHT_12K = Backbone(
    name="midnight-12k",
    build=_MIDNIGHT.build,
    convert=_MIDNIGHT.convert,
    weights=Weights(
        repo="kaiko-ai/midnight",
        file="model.safetensors",
        revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
        sha256="52c14f20386ca17c2af8a7bf32c31c352668a8fbf6aefc88d86be6eaa0c72ca1",
    ),
    title="Midnight-12k: ViT-g/14 by DINOv2, 12 thousand slides of TCGA",
    paper="https://arxiv.org/abs/2504.05186",
    license="MIT",
    params=1_134_769_664,
    patch=14,
    trained_on=("TCGA",),
)

# A reproduction of Midnight-12k with public code, started from the weights of DINOv2.
_OPENMIDNIGHT = Network(
    "vit_giant_patch14_reg4_dinov2", {"img_size": 224, "global_pool": "token"}, IMAGENET, DINOV2
)

OPENMIDNIGHT = Backbone(
    name="openmidnight",
    build=_OPENMIDNIGHT.build,
    convert=_OPENMIDNIGHT.convert,
    weights=Weights(
        repo="SophontAI/OpenMidnight",
        file="teacher_checkpoint_load.pt",
        revision="87189e6674d397a14a5cd342c97b1a1615a185aa",
        sha256="b57121fc10e2b04c9e85514fa5e4c23b75329301e05bfc756c3bca57312505be",
    ),
    title="OpenMidnight: ViT-g/14 with 4 registers by DINOv2, 12 thousand slides of TCGA",
    paper="https://huggingface.co/SophontAI/OpenMidnight",
    license="Apache-2.0",
    gated=True,
    params=1_134_774_272,
    patch=14,
    trained_on=("TCGA",),
)
