"""The light head of the paper (Figure B2 A): maps fused from coarse to fine at 256 channels.

7,147,266 parameters over CMD-L's six maps, the paper's 7.15 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the light head."""
    from ._light import LightHead

    return LightHead(channels, strides, classes)


light = HeadPlugin(
    name="light",
    build=build,
    title="top-down fusion of the paper, Figure B2 A",
    paper="arXiv:2605.08276, Figure B2 (A), after Li et al., ICCV 2023, arXiv:2301.05221",
)
