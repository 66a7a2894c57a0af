"""UNI and UNI2-h by Mass General Brigham: ViTs, DINOv2 on slides of its hospitals.

UNI also trained on GTEx. Neither trained on TCGA, which the authors reserved for evaluation.
Chen et al., "Towards a general-purpose foundation model for computational pathology", Nature
Medicine 2024.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import IMAGENET, SWIGLU, Network

_UNI = Network("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5}, IMAGENET)
_UNI2_H = Network(
    "vit_giant_patch14_224",
    {
        "img_size": 224,
        "patch_size": 14,
        "depth": 24,
        "num_heads": 24,
        "init_values": 1e-5,
        "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2,
        "no_embed_class": True,
        "reg_tokens": 8,
        **SWIGLU,
    },
    IMAGENET,
)

UNI = Backbone(
    name="uni",
    build=_UNI.build,
    convert=_UNI.convert,
    weights=Weights(
        repo="MahmoodLab/UNI",
        file="pytorch_model.bin",
        revision="b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
        sha256="56ef09b44a25dc5c7eedc55551b3d47bcd17659a7a33837cf9abc9ec4e2ffb40",
    ),
    title="UNI: ViT-L/16 by DINOv2, 100 thousand slides",
    paper="https://doi.org/10.1038/s41591-024-02857-3",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=303_350_784,
    patch=16,
    mpp=0.5,
    trained_on=("Mass General Brigham", "GTEx"),
)

UNI2_H = Backbone(
    name="uni2-h",
    build=_UNI2_H.build,
    convert=_UNI2_H.convert,
    weights=Weights(
        repo="MahmoodLab/UNI2-h",
        file="pytorch_model.bin",
        revision="d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
        sha256="6e077eda234bebc595868d918d3458d9dd32a050199b0ff04443b2f46a0a3b1e",
    ),
    title="UNI2-h: ViT-H/14 with 8 registers by DINOv2, 350 thousand slides",
    paper="https://doi.org/10.1038/s41591-024-02857-3",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=681_394_176,
    patch=14,
    mpp=0.5,
    trained_on=("Mass General Brigham",),
)
