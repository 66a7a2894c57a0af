"""The head of TransUNet: the coarsest map is enlarged step by step and takes in the finer ones.

7,387,490 parameters over TransUNet's own maps, 10,926,434 where the coarsest has 1536 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the cascaded up-sampler."""
    from ._decoder_cup import DecoderCup

    return DecoderCup(channels, strides, classes)


decoder_cup = HeadPlugin(
    name="decoder-cup",
    build=build,
    title="cascaded up-sampler of TransUNet, with skips",
    paper="arXiv:2102.04306, section 3.2",
)
