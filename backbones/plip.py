"""PLIP and QuiltNet: CLIP's ViT-B/32, trained further on pathology from the web.

Both start from OpenAI's weights and keep QuickGELU, which QuiltNet's file cannot tell. Huang et
al., "A visual-language foundation model for pathology image analysis using medical Twitter",
Nature Medicine 2023; Ikezogwo et al., "Quilt-1M", NeurIPS 2023.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import TRANSFORMERS_CLIP
from ._network import CLIP, Network

_ARCHITECTURE = "vit_base_patch32_clip_quickgelu_224"
_PLIP = Network(_ARCHITECTURE, colours=CLIP, layout=TRANSFORMERS_CLIP)
_QUILTNET = Network(_ARCHITECTURE, colours=CLIP)  # in OpenAI's names, which timm knows

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
    title="PLIP: CLIP's ViT-B/32 on images and text of Twitter and LAION",
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
    title="QuiltNet-B-32: CLIP's ViT-B/32 on images and text of Quilt-1M",
    paper="https://arxiv.org/abs/2306.11207",
    license="MIT",
    params=87_456_000,
    patch=32,
    trained_on=("WebImageText", "Quilt-1M"),
)
