"""The strong head of the paper (Figure B2 B): nine 3x3 convolutions down to the classes.

4608 sum(C) + 2,337,122 parameters for two classes: 5.88 M over a ViT-B, 21.21 M over CMD-L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the decoder head."""
    from ._decoder import DecoderHead

    return DecoderHead(channels, strides, classes)


decoder = HeadPlugin(
    name="decoder",
    build=build,
    title="convolutional decoder of the paper, Figure B2 B",
    paper="arXiv:2605.08276, Figure B2 (B)",
)
