"""CONCH and CONCH v1.5 of Mass General Brigham: image towers of vision-language models.

The map is the trunk's patch tokens; poolers and the text tower are left aside. CONCH saw no slides
of TCGA, PAIP or GTEx, by its authors; v1.5 starts from UNI, which saw GTEx. Lu et al.,
"A visual-language foundation model for computational pathology", Nature Medicine 2024; Ding et
al., "Multimodal whole slide foundation model for pathology", 2024 (v1.5).
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import TRUNK, VISUAL_TRUNK
from ._network import CLIP, IMAGENET, Network

_CONCH = Network("vit_base_patch16_224", {"img_size": 448}, CLIP, VISUAL_TRUNK)
_CONCH_V1_5 = Network(  # loading takes the grid of positions from the file: it is not published
    "vit_large_patch16_224", {"img_size": 448, "init_values": 1e-5}, IMAGENET, TRUNK
)

CONCH = Backbone(
    name="conch",
    build=_CONCH.build,
    convert=_CONCH.convert,
    weights=Weights(
        repo="MahmoodLab/CONCH",
        file="pytorch_model.bin",
        revision="f9ca9f877171a28ade80228fb195ac5d79003357",
        sha256="40a9644b9ba0e83a74576e0a5e5f7313599fa9c9cdaf3c20f8a3e271b0e9ae7c",
    ),
    title="CONCH: ViT-B/16 of a vision-language model, 1.17 million captions",
    paper="https://doi.org/10.1038/s41591-024-02856-4",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=86_250_240,
    patch=16,
    trained_on=("Mass General Brigham", "PubMed Central"),
)

CONCH_V1_5 = Backbone(
    name="conch-v1.5",
    build=_CONCH_V1_5.build,
    convert=_CONCH_V1_5.convert,
    weights=Weights(repo="MahmoodLab/conchv1_5", file="pytorch_model_vision.bin"),
    title="CONCH v1.5: ViT-L/16 of a vision-language model, patch encoder of TITAN",
    paper="https://arxiv.org/abs/2411.19666",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=303_952_896,
    patch=16,
    mpp=0.5,
    trained_on=("Mass General Brigham", "GTEx"),
)
