"""Hibou-B and Hibou-L by HistAI: ViTs with registers, DINOv2 on private slides.

The files have the names of transformers' Dinov2WithRegistersModel. Mean and std of Hibou-B are
assumed to be those of Hibou-L. Nechaev et al., "Hibou", 2024.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import TRANSFORMERS_DINOV2
from ._network import SWIGLU, Colours, Network

_COLOURS: Colours = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_HIBOU_B = Network(
    "vit_base_patch14_reg4_dinov2",
    {"img_size": 224, "mlp_ratio": 2 * 2048 / 768, **SWIGLU},
    _COLOURS,
    TRANSFORMERS_DINOV2,
)
_HIBOU_L = Network(
    "vit_large_patch14_reg4_dinov2",
    {"img_size": 224, "mlp_ratio": 2 * 2736 / 1024, **SWIGLU},
    _COLOURS,
    TRANSFORMERS_DINOV2,
)

HIBOU_B = Backbone(
    name="hibou-b",
    build=_HIBOU_B.build,
    convert=_HIBOU_B.convert,
    weights=Weights(
        repo="histai/hibou-b",
        file="model.safetensors",
        revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c",
        sha256="2121db3cac83bc9abf13a458a37b0740e2ce725609ff8d4b8e6b6c56c30c3ab6",
    ),
    title="Hibou-B: ViT-B/14 with 4 registers by DINOv2, 1.1 million slides",
    paper="https://arxiv.org/abs/2406.05074",
    license="Apache-2.0",
    gated=True,
    params=85_739_520,
    patch=14,
    trained_on=("HistAI",),
)

HIBOU_L = Backbone(
    name="hibou-l",
    build=_HIBOU_L.build,
    convert=_HIBOU_L.convert,
    weights=Weights(
        repo="histai/hibou-L",
        file="model.safetensors",
        revision="31a3b9fee16554c8552cb643d311733bce8faf7c",
        sha256="a63d1699448143ceccf2b7e1c4bf35b995c51f86ef8a6efb471af2eee210b79c",
    ),
    title="Hibou-L: ViT-L/14 with 4 registers by DINOv2, 1.1 million slides",
    paper="https://arxiv.org/abs/2406.05074",
    license="Apache-2.0",
    gated=True,
    params=303_657_216,
    patch=14,
    trained_on=("HistAI",),
)
