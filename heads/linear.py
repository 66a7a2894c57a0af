"""The linear probe: one 1x1 convolution over all maps, the least that any head can do.

What it scores is what the features already hold; Conv1x1 sum(C) -> K, sum(C) K + K parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(
    channels: Sequence[int], strides: Sequence[int], classes: int, *, standardise: bool = True
) -> Head:
    """Build the linear head; `standardise` is explained in `_linear.LinearHead`."""
    from ._linear import LinearHead

    return LinearHead(channels, classes, standardise=standardise)


linear = HeadPlugin(
    name="linear",
    build=build,
    title="one 1x1 convolution over all maps",
    paper="arXiv:2605.08276, section 4.1.3",
)
