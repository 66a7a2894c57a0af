"""Pathology vision-language models: image towers of CONCH, CONCH v1.5, MUSK, PLIP and QuiltNet.

The map has the trunk's patch tokens; poolers and text towers are dropped. Lu et al., "A
visual-language foundation model for computational pathology", Nature Medicine 2024 (CONCH); Ding et
al., "Multimodal whole slide foundation model for pathology", 2024 (v1.5); Xiang et al., "A
vision-language foundation model for precision oncology", Nature 2025 (MUSK); Huang et al., "A
visual-language foundation model for pathology image analysis using medical Twitter", Nature
Medicine 2023 (PLIP); Ikezogwo et al., "Quilt-1M", NeurIPS 2023 (QuiltNet).
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import BEIT3, TRANSFORMERS_CLIP, TRUNK, VISUAL_TRUNK
from ._network import CLIP, HALF, IMAGENET, Network

# By its authors, CONCH saw no slides of TCGA, PAIP or GTEx; v1.5 starts from UNI, which saw GTEx.
_CONCH = Network("vit_base_patch16_224", {"img_size": 448}, CLIP, VISUAL_TRUNK)
_CONCH_V1_5 = Network(  # the grid of positions is not published: loading takes it from the file
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

_MUSK = Network(  # with token pooling, timm applies the final norm to all tokens
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

# Both start from OpenAI's weights and use QuickGELU, which the file of QuiltNet does not record.
_CLIP_VIT_B32 = "vit_base_patch32_clip_quickgelu_224"
_PLIP = Network(_CLIP_VIT_B32, colours=CLIP, layout=TRANSFORMERS_CLIP)
_QUILTNET = Network(_CLIP_VIT_B32, colours=CLIP)  # OpenAI's names, which timm converts

PLIP = Backbone(
    name="plip",
    build=_PLIP.build,
    convert=_PLIP.convert,
    weights=Weights(
        repo="vinid/plip",
        file="pytorch_model.bin",
        revision="67ade53ddd32195868f422585f72698ef5d15094",
        sha256="98a7f8d2a1f4a8fc8f6dedb3a16ff7efbe02a7ef67c93904c80bca9767c69630",
    ),
    title="PLIP: CLIP's ViT-B/32, fine-tuned on images and text from Twitter and LAION",
    paper="https://doi.org/10.1038/s41591-023-02504-3",
    license="MIT (declared in its setup.py alone)",
    params=87_456_000,
    patch=32,
    trained_on=("WebImageText", "OpenPath"),
)

QUILTNET = Backbone(
    name="quiltnet",
    build=_QUILTNET.build,
    convert=_QUILTNET.convert,
    weights=Weights(
        repo="wisdomik/QuiltNet-B-32",
        file="open_clip_pytorch_model.bin",
        revision="8ce77289ce35a90b2f1db1137dfa4bc2df175e33",
        sha256="e88815d05f50493a54fc2bab7ccf54075d24339d7b217e6f173c0c158ace92e7",
    ),
    title="QuiltNet-B-32: CLIP's ViT-B/32, fine-tuned on Quilt-1M",
    paper="https://arxiv.org/abs/2306.11207",
    license="MIT",
    params=87_456_000,
    patch=32,
    trained_on=("WebImageText", "Quilt-1M"),
)
