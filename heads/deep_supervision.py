"""nnU-Net's deep supervision: a classifier on every map, the finest of which is the answer.

(sum(C) + number of maps) K parameters: 2,108 over the six maps of `nnunet-12m`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the head of deep supervision."""
    from ._deep_supervision import DeepSupervisionHead

    return DeepSupervisionHead(channels, classes)


deep_supervision = HeadPlugin(
    name="deep-supervision",
    build=build,
    title="nnU-Net's: one 1x1 convolution a map, each with a loss of its own",
    paper="arXiv:1809.10486, Isensee et al., Nature Methods 2021",
)
