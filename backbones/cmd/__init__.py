"""CMD: a convolutional foundation model pretrained by masked diffusion (arXiv 2605.08276)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

if TYPE_CHECKING:
    from torch import nn

    from bench.api import FeatureExtractor

TINY_SHA256 = "99eb995bdc7a22f47401a289639130f8fa48ddc8a0872988c051bf30cce4b52f"


def _extractor_builder(
    name: str, default_blocks: tuple[int, ...] | None
) -> Callable[..., FeatureExtractor]:
    """Return the `build` of a size; `default_blocks` apply to the ConvNeXt U-Net alone."""

    def build(
        *,
        timestep: int = 50,
        blocks: tuple[int, ...] | None = None,
        condition: str = "none",
        cond_dim: int | None = None,
        mask_seed: int | None = None,
        arch: str = "convnext",
        space: str = "pixel",
        vae: str = "sd-vae",
    ) -> FeatureExtractor:
        from .extractor import CMDExtractor, FeatureOptions
        from .variants import SIZES, Variant

        variant = Variant(SIZES[name], arch, space)
        if blocks is None and arch == "convnext":
            blocks = default_blocks
        features = FeatureOptions(timestep, blocks, mask_seed, vae)
        return CMDExtractor(variant, features, condition, cond_dim)

    return build


def _network_builder(name: str) -> Callable[..., nn.Module]:
    def network(*, cond_dim: int | None, arch: str = "convnext", space: str = "pixel") -> nn.Module:
        from .variants import SIZES, Variant

        return Variant(SIZES[name], arch, space).network(cond_dim)

    return network


def _record(
    name: str, width: int, params: int, default_blocks: tuple[int, ...] | None = None
) -> Backbone:
    """Return the record of a CMD.

    Args:
        name: of the backbone, a key of `variants.SIZES`.
        width: base width.
        params: parameters without a condition embedding.
        default_blocks: decoder blocks whose outputs are the features; None: those of the paper.
    """
    return Backbone(
        name=name,
        build=_extractor_builder(name, default_blocks),
        network=_network_builder(name),
        title=f"CMD: ConvNeXt U-Net of base width {width}, pretrained by masked diffusion",
        paper="https://arxiv.org/abs/2605.08276",
        license="none released",
        params=params,
        input_px=256,
        default_head="light",
        trainer=f"bench pretrain --backbone {name}",
    )


# The coarse blocks of the packaged weights are worse features for nuclei than random ones
# (docs/pretraining.md), so the features are the last blocks of the three finest levels.
TINY = replace(
    _record("cmd-tiny", 64, 8_218_307, default_blocks=(6, 8, 9)),
    weights=Weights(package=__name__, file="cmd-tiny.safetensors", sha256=TINY_SHA256),
    license="Apache-2.0",
    trained_on=("TCGA", "OpenSlide CMU-1", "BBBC038"),
)
SMALL = _record("cmd-s", 128, 32_214_403)
BASE = _record("cmd-b", 256, 127_539_971)
LARGE = _record("cmd-l", 512, 507_524_611)
