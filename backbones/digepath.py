"""Digepath: a ViT-L by DINOv2, on slides of the stomach and the gut.

Its page does not name the sources of its training slides, so a leakage mark cannot appear. Zhu et
al., "Subspecialty-specific foundation model for intelligent gastrointestinal pathology", 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

_DIGEPATH = Network("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5}, IMAGENET)

DIGEPATH = Backbone(
    name="digepath",
    build=_DIGEPATH.build,
    convert=_DIGEPATH.convert,
    weights=Weights(repo="xtxx/Digepath", file="model.safetensors"),
    title="Digepath: ViT-L/16 by DINOv2, 200 thousand slides of stomach and gut, unnamed sources",
    paper="https://arxiv.org/abs/2505.21928",
    license="CC-BY-NC-4.0",
    gated=True,
    params=303_350_784,
    patch=16,
)
