"""CTransPath: a Swin-T with a convolutional stem, by contrastive learning on TCGA and PAIP.

The map is the last, of stride 32, as the paper's pooled feature is made of; `layers=0,1,2,3` gives
all four stages, of strides 4 to 32, the pyramid that those who segment with it build on. Its files
are read in timm's names and in those of the authors' own checkpoint. Wang et al.,
"Transformer-based unsupervised contrastive learning for histopathological image classification",
Medical Image Analysis 2022.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

_CTRANSPATH = Network("swin_tiny_patch4_window7_224", {"embed_layer": "conv_stem"}, IMAGENET)

CTRANSPATH = Backbone(
    name="ctranspath",
    build=_CTRANSPATH.build,
    convert=_CTRANSPATH.convert,
    weights=Weights(
        repo="1aurent/swin_tiny_patch4_window7_224.CTransPath",
        file="model.safetensors",
        revision="59c740e4ed91dda4ebe094b64e4cd2e015c31810",
        sha256="158e29683f19cfb0018d040b95610802b640db60d38b00b25ea7db674cd141e4",
    ),
    title="CTransPath: Swin-T with a convolutional stem, contrastive, on TCGA and PAIP",
    paper="https://doi.org/10.1016/j.media.2022.102559",
    license="GPL-3.0 (and a note: academic use)",
    params=27_520_038,
    mpp=1.0,
    trained_on=("TCGA", "PAIP"),
)
