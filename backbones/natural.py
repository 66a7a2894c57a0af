"""ConvNeXt V2 and MAE, of natural images: what a model of pathology has to beat.

Woo et al., "ConvNeXt V2", 2023, by masked autoencoding and then labels; He et al., "Masked
autoencoders are scalable vision learners", 2021.
"""

from __future__ import annotations

from functools import partial

from bench.api import Backbone

from ._network import Network

_convnextv2 = partial(
    Backbone,
    paper="https://arxiv.org/abs/2301.00808",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k", "ImageNet-22k"),
)
_CONVNEXTV2_B = Network("convnextv2_base.fcmae_ft_in22k_in1k_384")
_CONVNEXTV2_L = Network("convnextv2_large.fcmae_ft_in22k_in1k_384")
_MAE_L = Network("vit_large_patch16_224.mae")

CONVNEXTV2_B = _convnextv2(
    name="convnextv2-b",
    build=_CONVNEXTV2_B.build,
    convert=_CONVNEXTV2_B.convert,
    weights=_CONVNEXTV2_B.hosted(),
    title="ConvNeXt V2-B, masked autoencoder, then labels of natural images",
    params=87_692_800,
)

CONVNEXTV2_L = _convnextv2(
    name="convnextv2-l",
    build=_CONVNEXTV2_L.build,
    convert=_CONVNEXTV2_L.convert,
    weights=_CONVNEXTV2_L.hosted(),
    title="ConvNeXt V2-L, masked autoencoder, then labels of natural images",
    params=196_419_840,
)

MAE_L = Backbone(
    name="mae-l",
    build=_MAE_L.build,
    convert=_MAE_L.convert,
    weights=_MAE_L.hosted(),
    title="MAE ViT-L/16, masked autoencoder of natural images",
    paper="https://arxiv.org/abs/2111.06377",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k",),
    params=303_301_632,
    patch=16,
)
