"""CMD: a convolutional foundation model pretrained by masked diffusion (arXiv 2605.08276)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import Backbone

if TYPE_CHECKING:
    from torch import nn

    from bench.api import FeatureExtractor


def _builder(name: str) -> Callable[..., FeatureExtractor]:
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
        return CMDExtractor(arm, Reading(timestep, blocks, mask_seed, vae), condition, cond_dim)

    return build


def _trained(name: str) -> Callable[..., nn.Module]:
    def network(*, cond_dim: int | None, arch: str = "convnext", space: str = "pixel") -> nn.Module:
        from .arms import SIZES, Arm

        return Arm(SIZES[name], arch, space).network(cond_dim)

    return network


def _record(name: str, width: int, params: int) -> Backbone:
    """Make the record of the CMD of that base width; `params` counts it without a condition."""
    return Backbone(
        name=name,
        build=_builder(name),
        network=_trained(name),
        title=f"ConvNeXt U-Net, masked diffusion, width {width}",
        paper="https://arxiv.org/abs/2605.08276",
        license="none released",
        params=params,
        input_px=256,
        default_head="light",
        trainer=f"bench pretrain --backbone {name}",
    )


TINY = _record("cmd-tiny", 64, 8_218_307)
SMALL = _record("cmd-s", 128, 32_214_403)
BASE = _record("cmd-b", 256, 127_539_971)
LARGE = _record("cmd-l", 512, 507_524_611)
