"""The tile encoder of Prov-GigaPath: a ViT-g by DINOv2, on slides of Providence.

Its patch is 16 pixels, whatever timm's name of the architecture says. The card allows research
alone. Xu et al., "A whole-slide foundation model for digital pathology from real-world data",
Nature 2024.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, Network

_GIGAPATH = Network(
    "vit_giant_patch14_dinov2",
    {
        "img_size": 224,
        "patch_size": 16,
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "init_values": 1e-5,
        "mlp_ratio": 5.33334,
    },
    IMAGENET,
)

GIGAPATH = Backbone(
    name="gigapath",
    build=_GIGAPATH.build,
    convert=_GIGAPATH.convert,
    weights=Weights(
        repo="prov-gigapath/prov-gigapath",
        file="pytorch_model.bin",
        revision="eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
        sha256="877947214318afa9e011754b74bbc3894a1f480a253afc7bc8045b8321dedd63",
    ),
    title="Prov-GigaPath's tile encoder: ViT-g/16 by DINOv2, 171 thousand slides",
    paper="https://doi.org/10.1038/s41586-024-07441-w",
    license="Apache-2.0 (card: research only)",
    gated=True,
    params=1_134_953_984,
    patch=16,
    mpp=0.5,
    trained_on=("Providence",),
)
