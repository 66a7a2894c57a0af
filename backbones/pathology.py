"""Pathology backbones of organisations with one model each.

CTransPath, Digepath, GenBio-PathFM, GPFM, PathOrchestra and the tile encoder of Prov-GigaPath.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._keys import DINOV2, DINOV3
from ._network import IMAGENET, Network

# Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image
# classification", Medical Image Analysis 2022. The default map, of stride 32, is the one that the
# paper pools; `layers=0,1,2,3` gives the pyramid of strides 4 to 32. Files with timm's names and
# those of the authors' checkpoint both load.
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
    title="CTransPath: Swin-T with a convolutional stem, contrastive learning on TCGA and PAIP",
    paper="https://doi.org/10.1016/j.media.2022.102559",
    license="GPL-3.0 (and a note: academic use)",
    params=27_520_038,
    mpp=1.0,
    trained_on=("TCGA", "PAIP"),
)

# Zhu et al., "Subspecialty-specific foundation model for intelligent gastrointestinal pathology",
# 2025. The sources of the training slides are not published, so `trained_on` is empty and no board
# can mark an overlap with a test set.
_DIGEPATH = Network("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5}, IMAGENET)

DIGEPATH = Backbone(
    name="digepath",
    build=_DIGEPATH.build,
    convert=_DIGEPATH.convert,
    weights=Weights(repo="xtxx/Digepath", file="model.safetensors"),
    title="Digepath: ViT-L/16 by DINOv2, 200 thousand gastrointestinal slides, sources not named",
    paper="https://arxiv.org/abs/2505.21928",
    license="CC-BY-NC-4.0",
    gated=True,
    params=303_350_784,
    patch=16,
)

# Kapse et al., "GenBio-PathFM", bioRxiv 2026. A ViT of one input channel, applied to red, green and
# blue: the map is three times as wide as the network, and takes three times as long. Rotary
# positions are in float32 here and in bfloat16 in the authors' code. The training slides are
# public, but their sources are not named, so `trained_on` is empty; TCGA is likely among them.
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
    title="GenBio-PathFM: ViT-g/16 per colour channel by DINO and JEPA, public slides, not named",
    paper="https://github.com/genbio-ai/genbio-pathfm",
    license="GenBio AI Community License (non-commercial)",
    params=1_133_686_784,
    patch=16,
)

# Xu et al., "A whole-slide foundation model for digital pathology from real-world data", Nature
# 2024. The patch is 16 pixels, although timm's name of the architecture says 14. The model card
# permits research only.
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

# Ma et al., "A generalizable pathology foundation model using a unified knowledge distillation
# pretraining framework", Nature Biomedical Engineering 2025. The hub page has an MIT tag and the
# repository a CC-BY-NC-ND licence: the stricter one is listed. The file is that of the hub, not the
# one of the same name in the releases of the code.
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

# Yan et al., "PathOrchestra: a comprehensive foundation model for computational pathology with over
# 100 diverse clinical-grade tasks", 2025. The sources of the training slides are not published, so
# `trained_on` is empty and no board can mark an overlap with a test set.
_PATHORCHESTRA = Network("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5}, IMAGENET)

PATHORCHESTRA = Backbone(
    name="pathorchestra",
    build=_PATHORCHESTRA.build,
    convert=_PATHORCHESTRA.convert,
    weights=Weights(
        repo="AI4Pathology/PathOrchestra",
        file="pytorch_model.bin",
        revision="8280b11a63919f25e4610f3315c2646b5f38bbb5",
        sha256="3bcf28a162ed187d63ce42b41096eb298702b6d1be8640555660b053354db912",
    ),
    title="PathOrchestra: ViT-L/16 by DINOv2, 300 thousand slides, sources not named",
    paper="https://arxiv.org/abs/2503.24345",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=303_350_784,
    patch=16,
)
