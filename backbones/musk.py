"""The vision tower of MUSK: BEiT-3, by masked modelling of images and text.

Xiang et al., "A vision-language foundation model for precision oncology", Nature 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import BEIT3
from ._network import HALF, Network

_MUSK = Network(  # pooled by its token, so that the final norm is one of all tokens
    "beit3_large_patch16_224", {"img_size": 384, "global_pool": "token"}, HALF, BEIT3
)

MUSK = Backbone(
    name="musk",
    build=_MUSK.build,
    convert=_MUSK.convert,
    weights=Weights(
        repo="xiangjx/musk",
        file="model.safetensors",
        revision="de1ffed28608c197d2903f6fa42b491a3fbf0fb8",
        sha256="83d9f2429ec3f04fc3bdc4bc6d8e6c78035ea196fdce9fe05d76ea0e8cad0375",
    ),
    title="MUSK: ViT-L/16 of a vision-language model, 50 million images of TCGA",
    paper="https://doi.org/10.1038/s41586-024-08378-w",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=303_936_512,
    patch=16,
    trained_on=("TCGA", "Quilt-1M", "PathCap"),
)
