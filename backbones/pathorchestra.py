"""PathOrchestra: a ViT-L by DINOv2, on 300 thousand slides of several centres.

Its page does not name the sources of its training slides, so a leakage mark cannot appear. Yan et
al., "PathOrchestra: a comprehensive foundation model for computational pathology with over 100
diverse clinical-grade tasks", 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

_PATHORCHESTRA = Network("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5}, IMAGENET)

PATHORCHESTRA = Backbone(
    name="pathorchestra",
    build=_PATHORCHESTRA.build,
    convert=_PATHORCHESTRA.convert,
    weights=Weights(
        repo="AI4Pathology/PathOrchestra",
        file="pytorch_model.bin",
        revision="8280b11a63919f25e4610f3315c2646b5f38bbb5",
        sha256="3bcf28a162ed187d63ce42b41096eb298702b6d1be8640555660b053354db912",
    ),
    title="PathOrchestra: ViT-L/16 by DINOv2, 300 thousand slides of unnamed sources",
    paper="https://arxiv.org/abs/2503.24345",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=303_350_784,
    patch=16,
)
