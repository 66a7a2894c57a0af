"""Virchow and Virchow2 by Paige and Microsoft: ViT-H/14, DINOv2 on slides of MSKCC.

Virchow2 has four registers, which, unlike in other models, have position embeddings. Its slides are
those of MSKCC and of clinics that submitted theirs to it; the papers name no public source.
Vorontsov et al., Nature Medicine 2024; Zimmermann et al., "Virchow2", 2024.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, SWIGLU, Network

_OPTIONS = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **SWIGLU}
_VIRCHOW = Network("vit_huge_patch14_224", _OPTIONS, IMAGENET)
_VIRCHOW2 = Network("vit_huge_patch14_224", {**_OPTIONS, "reg_tokens": 4}, IMAGENET)

VIRCHOW = Backbone(
    name="virchow",
    build=_VIRCHOW.build,
    convert=_VIRCHOW.convert,
    weights=Weights(
        repo="paige-ai/Virchow",
        file="model.safetensors",
        revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
        sha256="3416891b37a2349a2d9ce7ecf00b64a6277011b41351436c1ceb0abb80805408",
    ),
    title="Virchow: ViT-H/14 by DINOv2, 1.5 million slides",
    paper="https://doi.org/10.1038/s41591-024-03141-0",
    license="Apache-2.0",
    gated=True,
    params=631_229_184,
    patch=14,
    mpp=0.5,
    trained_on=("MSKCC",),
)

VIRCHOW2 = Backbone(
    name="virchow2",
    build=_VIRCHOW2.build,
    convert=_VIRCHOW2.convert,
    weights=Weights(
        repo="paige-ai/Virchow2",
        file="model.safetensors",
        revision="3158645804b69e3f3bc4439d4116edddf0840a72",
        sha256="8d6cea947eb2418c3b0dff48cfb9b238e47744ab0dfca21b2b0637b140769b4b",
    ),
    title="Virchow2: ViT-H/14 with 4 registers by DINOv2, 3.1 million slides",
    paper="https://arxiv.org/abs/2408.00738",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=631_239_424,
    patch=14,
    trained_on=("MSKCC",),
)
