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


def _builder(name: str, reading: tuple[int, ...] | None) -> Callable[..., FeatureExtractor]:
    """Make the builder of a size; `reading` are the blocks that it reads of a ConvNeXt U-Net."""

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
        from .arms import SIZES, Arm
        from .extractor import CMDExtractor, Reading

        arm = Arm(SIZES[name], arch, space)
        if blocks is None and arch == "convnext":
            blocks = reading
        return CMDExtractor(arm, Reading(timestep, blocks, mask_seed, vae), condition, cond_dim)

    return build


def _trained(name: str) -> Callable[..., nn.Module]:
    def network(*, cond_dim: int | None, arch: str = "convnext", space: str = "pixel") -> nn.Module:
        from .arms import SIZES, Arm

        return Arm(SIZES[name], arch, space).network(cond_dim)

    return network


def _record(name: str, width: int, params: int, reading: tuple[int, ...] | None = None) -> Backbone:
    """Make the record of the CMD of that base width; `params` counts it without a condition.

    Args:
        reading: the blocks that it reads; None: the paper's.
    """
    return Backbone(
        name=name,
        build=_builder(name, reading),
        network=_trained(name),
        title=f"ConvNeXt U-Net, masked diffusion, width {width}",
        paper="https://arxiv.org/abs/2605.08276",
        license="none released",
        params=params,
        input_px=256,
        default_head="light",
        trainer=f"bench pretrain --backbone {name}",
    )


# Of the weights that come with cmd-tiny the coarse blocks say less of nuclei than random ones do:
# docs/pretraining.md. It reads the last block of each of the three finest resolutions.
TINY = replace(
    _record("cmd-tiny", 64, 8_218_307, reading=(6, 8, 9)),
    weights=Weights(package=__name__, file="cmd-tiny.safetensors", sha256=TINY_SHA256),
    license="Apache-2.0",
    trained_on=("TCGA", "OpenSlide CMU-1", "BBBC038"),
)
SMALL = _record("cmd-s", 128, 32_214_403)
BASE = _record("cmd-b", 256, 127_539_971)
LARGE = _record("cmd-l", 512, 507_524_611)
