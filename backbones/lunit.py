"""ViT-S models by Lunit: DINO on TCGA and private slides.

Mean and std are those of the training, unlike in timm's configuration of the mirrored files. Kang
et al., "Benchmarking self-supervised learning on diverse pathology datasets", CVPR 2023.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import Colours, Network

_COLOURS: Colours = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_S16 = Network("vit_small_patch16_224", colours=_COLOURS)
_S8 = Network("vit_small_patch8_224", colours=_COLOURS)

LUNIT_S16 = Backbone(
    name="lunit-s16",
    build=_S16.build,
    convert=_S16.convert,
    weights=Weights(
        repo="1aurent/vit_small_patch16_224.lunit_dino",
        file="model.safetensors",
        revision="9ed09909d93f9d39a092d8e49717ae48f9b44e6f",
        sha256="a19eb37d6cf038a7e8a34c7e9ec50698d02759b2f49dd799492f6ce7e4cb5937",
    ),
    title="Lunit ViT-S/16 by DINO, 37 thousand slides",
    paper="https://arxiv.org/abs/2212.04690",
    license="Lunit non-commercial",
    params=21_665_664,
    patch=16,
    trained_on=("TCGA", "TULIP"),
)

LUNIT_S8 = Backbone(
    name="lunit-s8",
    build=_S8.build,
    convert=_S8.convert,
    weights=Weights(
        repo="1aurent/vit_small_patch8_224.lunit_dino",
        file="model.safetensors",
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
        sha256="0b7e0236ce430064b31485bbb6f85e661dc5eca0cde709e8f04d59f1c2b23e0b",
    ),
    title="Lunit ViT-S/8 by DINO, 37 thousand slides",
    paper="https://arxiv.org/abs/2212.04690",
    license="Lunit non-commercial",
    params=21_670_272,
    patch=8,
    trained_on=("TCGA", "TULIP"),
)
