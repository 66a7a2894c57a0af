"""GenBio-PathFM: a DINOv3 ViT of one channel, which sees red, green and blue apart.

The map has three times the width of the network, and costs three times its time. Its rotary
positions are in float32 here, in bfloat16 in the authors' code. All its training slides are public,
and the page names none of their sources, so a leakage mark cannot appear: take TCGA as likely.
Kapse et al., "GenBio-PathFM", bioRxiv 2026.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import DINOV3
from ._network import Network

_GENBIO_PATHFM = Network(
    "vit_7b_patch16_dinov3",
    {
        "in_chans": 1,
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 4096 / 1536,
        "global_pool": "token",
        "norm_layer": "LayerNorm(eps=1e-6)",
    },
    ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187)),
    DINOV3,
)

GENBIO_PATHFM = Backbone(
    name="genbio-pathfm",
    build=_GENBIO_PATHFM.build,
    convert=_GENBIO_PATHFM.convert,
    weights=Weights(repo="genbio-ai/genbio-pathfm", file="model.pth"),
    title="GenBio-PathFM: ViT-g/16 a colour by DINO and JEPA, public slides of unnamed sources",
    paper="https://github.com/genbio-ai/genbio-pathfm",
    license="GenBio AI Community License (non-commercial)",
    params=1_133_686_784,
    patch=16,
)
