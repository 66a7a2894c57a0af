"""UperNet, the head of ViT-Adapter: a feature pyramid with pooling at four scales.

32,257,026 parameters over four maps of 768 channels, and 1,770,498 of a second head that only helps
to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin

if TYPE_CHECKING:
    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the UperNet head."""
    from ._upernet import UperHead

    return UperHead(channels, classes)


upernet = HeadPlugin(
    name="upernet",
    build=build,
    title="UperNet: feature pyramid with pooling, and an auxiliary loss",
    paper="https://arxiv.org/abs/1807.10221",
)
