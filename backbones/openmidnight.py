"""OpenMidnight of Sophont: a ViT-g with registers by DINOv2, on 12 thousand slides of TCGA.

An open repetition of Midnight-12k (Karasikov et al., 2025), from DINOv2's weights.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import DINOV2
from ._network import IMAGENET, Network

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
