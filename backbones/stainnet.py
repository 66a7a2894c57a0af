"""StainNet: ViTs, DINO on immunohistochemistry and special stains instead of H&E.

Li et al., "StainNet: a special staining self-supervised vision transformer for computational
pathology", 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import HALF, Network

_SMALL = Network("vit_small_patch16_224", colours=HALF)
_BASE = Network("vit_base_patch16_224", colours=HALF)

STAINNET_S = Backbone(
    name="stainnet-s",
    build=_SMALL.build,
    convert=_SMALL.convert,
    weights=Weights(repo="JWonderLand/StainNet", file="model.safetensors"),
    title="StainNet ViT-S/16 by DINO, 20 thousand slides, stains other than H&E",
    paper="https://arxiv.org/abs/2512.10326",
    license="CC-BY-NC-ND-4.0",
    params=21_665_664,
    patch=16,
    trained_on=("HISTAI dataset",),
)

STAINNET_B = Backbone(
    name="stainnet-b",
    build=_BASE.build,
    convert=_BASE.convert,
    weights=Weights(repo="JWonderLand/StainNet-Base", file="model.safetensors"),
    title="StainNet ViT-B/16 by DINO, 20 thousand slides, stains other than H&E",
    paper="https://arxiv.org/abs/2512.10326",
    license="CC-BY-NC-ND-4.0",
    params=85_798_656,
    patch=16,
    trained_on=("HISTAI dataset",),
)
