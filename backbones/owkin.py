"""Phikon and Phikon-v2 by Owkin: ViTs, iBOT and DINOv2 on public slides.

The files have the names of transformers' ViTModel and Dinov2Model. Filiot et al., "Scaling
self-supervised learning for histopathology with masked image modeling", 2023; "Phikon-v2", 2024.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import TRANSFORMERS_DINOV2, TRANSFORMERS_VIT
from ._network import IMAGENET, Network

_PHIKON = Network(
    "vit_base_patch16_224", {"norm_layer": "LayerNorm(eps=1e-12)"}, IMAGENET, TRANSFORMERS_VIT
)
_PHIKON_V2 = Network("vit_large_patch16_224", {"init_values": 1e-5}, IMAGENET, TRANSFORMERS_DINOV2)

PHIKON = Backbone(
    name="phikon",
    build=_PHIKON.build,
    convert=_PHIKON.convert,
    weights=Weights(
        repo="owkin/phikon",
        file="model.safetensors",
        revision="057cc0295895c2df3dd7681a89680da6015cbefe",
        sha256="d01642bfeb683c6b039622eca273e0a8e4208065a4595b63edba178c1c4cfa68",
    ),
    title="Phikon: ViT-B/16 by iBOT, 6 thousand slides of TCGA",
    paper="https://doi.org/10.1101/2023.07.21.23292757",
    license="Owkin non-commercial",
    params=85_798_656,
    patch=16,
    mpp=0.5,
    trained_on=("TCGA",),
)

PHIKON_V2 = Backbone(
    name="phikon-v2",
    build=_PHIKON_V2.build,
    convert=_PHIKON_V2.convert,
    weights=Weights(
        repo="owkin/phikon-v2",
        file="model.safetensors",
        revision="2ae989a9c40cffaa27f0a6cb29cc94d1d6f9a5fd",
        sha256="261ae680fa699b3b951597fd57aa19c02ef735805acb104b93af69b36d928569",
    ),
    title="Phikon-v2: ViT-L/16 by DINOv2, 58 thousand public slides",
    paper="https://arxiv.org/abs/2409.09173",
    license="Owkin non-commercial",
    params=303_350_784,
    patch=16,
    mpp=0.5,
    trained_on=("TCGA", "CPTAC", "GTEx"),
)
