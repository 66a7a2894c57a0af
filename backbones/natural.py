"""Backbones pretrained on natural images: DINOv2, DINOv3, ConvNeXt V2, MAE and SAM.

They are the reference that a pathology model has to exceed. Oquab et al., "DINOv2", 2023, with
registers Darcet et al., "Vision transformers need registers", 2023; Siméoni et al., "DINOv3", 2025;
Woo et al., "ConvNeXt V2", 2023; He et al., "Masked autoencoders are scalable vision learners",
2021; Kirillov et al., "Segment Anything", ICCV 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.api import Backbone

from ._network import Network


@dataclass(frozen=True)
class Family:
    """What the releases of one paper share; their weights are in timm's repositories."""

    paper: str
    license: str
    trained_on: tuple[str, ...]
    title: str

    def backbone(
        self,
        name: str,
        architecture: str,
        *,
        size: str,
        params: int,
        patch: int | None = None,
        pin: tuple[str, str] | None = None,
    ) -> Backbone:
        """Return the record of one release.

        Args:
            name: of the backbone.
            architecture: timm's name, with the tag of the release.
            size: replaces "{}" in the title.
            params: number of parameters.
            patch: side of a ViT's patch, in pixels.
            pin: revision of the repository and sha256 of the file.
        """
        network = Network(architecture)
        revision, sha256 = pin or (None, None)
        return Backbone(
            name=name,
            build=network.build,
            convert=network.convert,
            weights=network.hosted(revision, sha256),
            title=self.title.format(size),
            paper=self.paper,
            license=self.license,
            params=params,
            patch=patch,
            trained_on=self.trained_on,
        )


_DINOV2 = Family(
    paper="https://arxiv.org/abs/2304.07193",
    license="Apache-2.0",
    trained_on=("LVD-142M",),
    title="DINOv2 {}, self-supervised on natural images",
)
_DINOV3 = Family(  # the map of the ConvNeXts is the last, of stride 32, after the final norm
    paper="https://arxiv.org/abs/2508.10104",
    license="dinov3-license",
    trained_on=("LVD-1689M",),
    title="DINOv3 {}, self-supervised on natural images",
)
_CONVNEXT_V2 = Family(
    paper="https://arxiv.org/abs/2301.00808",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k", "ImageNet-22k"),
    title="ConvNeXt V2-{}, masked autoencoder, then supervised on ImageNet",
)
_MAE = Family(
    paper="https://arxiv.org/abs/2111.06377",
    license="CC-BY-NC-4.0",
    trained_on=("ImageNet-1k",),
    title="MAE {}, masked autoencoder on natural images",
)
# The map is the image embedding of 256 channels, after SAM's neck; `layers` selects blocks of the
# trunk. Training started from masked autoencoders.
_SAM = Family(
    paper="https://arxiv.org/abs/2304.02643",
    license="Apache-2.0",
    trained_on=("SA-1B",),
    title="SAM image encoder, {}, supervised by masks of natural images",
)

DINOV2_S = _DINOV2.backbone(
    "dinov2-s", "vit_small_patch14_dinov2.lvd142m", size="ViT-S/14", params=22_056_192, patch=14
)
DINOV2_B = _DINOV2.backbone(
    "dinov2-b", "vit_base_patch14_dinov2.lvd142m", size="ViT-B/14", params=86_579_712, patch=14
)
DINOV2_L = _DINOV2.backbone(
    "dinov2-l",
    "vit_large_patch14_dinov2.lvd142m",
    size="ViT-L/14",
    params=304_367_616,
    patch=14,
    pin=(
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
)
DINOV2_L_REG = _DINOV2.backbone(
    "dinov2-l-reg",
    "vit_large_patch14_reg4_dinov2.lvd142m",
    size="ViT-L/14 with 4 registers",
    params=304_370_688,
    patch=14,
)

DINOV3_S = _DINOV3.backbone(
    "dinov3-s", "vit_small_patch16_dinov3.lvd1689m", size="ViT-S/16", params=21_586_944, patch=16
)
DINOV3_B = _DINOV3.backbone(
    "dinov3-b", "vit_base_patch16_dinov3.lvd1689m", size="ViT-B/16", params=85_641_216, patch=16
)
DINOV3_L = _DINOV3.backbone(
    "dinov3-l", "vit_large_patch16_dinov3.lvd1689m", size="ViT-L/16", params=303_079_424, patch=16
)
DINOV3_H = _DINOV3.backbone(
    "dinov3-h",
    "vit_huge_plus_patch16_dinov3.lvd1689m",
    size="ViT-H+/16",
    params=840_509_440,
    patch=16,
)
DINOV3_CONVNEXT_B = _DINOV3.backbone(
    "dinov3-convnext-b", "convnext_base.dinov3_lvd1689m", size="ConvNeXt-B", params=87_566_464
)
DINOV3_CONVNEXT_L = _DINOV3.backbone(
    "dinov3-convnext-l", "convnext_large.dinov3_lvd1689m", size="ConvNeXt-L", params=196_230_336
)

CONVNEXTV2_B = _CONVNEXT_V2.backbone(
    "convnextv2-b", "convnextv2_base.fcmae_ft_in22k_in1k_384", size="B", params=87_692_800
)
CONVNEXTV2_L = _CONVNEXT_V2.backbone(
    "convnextv2-l", "convnextv2_large.fcmae_ft_in22k_in1k_384", size="L", params=196_419_840
)
MAE_L = _MAE.backbone(
    "mae-l", "vit_large_patch16_224.mae", size="ViT-L/16", params=303_301_632, patch=16
)

SAM_B = _SAM.backbone(
    "sam-b", "samvit_base_patch16.sa1b", size="ViT-B/16", params=89_670_912, patch=16
)
SAM_L = _SAM.backbone(
    "sam-l", "samvit_large_patch16.sa1b", size="ViT-L/16", params=308_278_272, patch=16
)
SAM_H = _SAM.backbone(
    "sam-h", "samvit_huge_patch16.sa1b", size="ViT-H/16", params=637_026_048, patch=16
)
