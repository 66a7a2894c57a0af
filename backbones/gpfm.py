"""GPFM of HKUST: a ViT-L by DINOv2 and distillation from three pathology models.

Its page carries an MIT tag, its repository a CC-BY-NC-ND licence: the stricter is given here. The
file of the hub is read, not the one of the same name among the releases of its code. Ma et al., "A
generalizable pathology foundation model using a unified knowledge distillation pretraining
framework", Nature Biomedical Engineering 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import DINOV2
from ._network import IMAGENET, Network

_GPFM = Network(
    "vit_large_patch14_dinov2", {"img_size": 224, "init_values": 1e-5}, IMAGENET, DINOV2
)

GPFM = Backbone(
    name="gpfm",
    build=_GPFM.build,
    convert=_GPFM.convert,
    weights=Weights(
        repo="majiabo/GPFM",
        file="GPFM.pth",
        revision="c2e0c6c7cea4d7ae67151c3375d780712f82254e",
        sha256="ebde1a9d7d9098848034bcff30f8771034c8d0b69e32846fa266940f2fd4604c",
    ),
    title="GPFM: ViT-L/14 by distillation and DINOv2, 72 thousand public slides",
    paper="https://arxiv.org/abs/2407.18449",
    license="CC-BY-NC-ND-4.0 (its page says MIT)",
    params=303_227_904,
    patch=14,
    trained_on=("TCGA", "CPTAC", "GTEx"),
)
