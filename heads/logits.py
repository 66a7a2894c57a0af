"""The backbone's own logits, for those that find nuclei by themselves; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin
from bench.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Head


def build(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the head; it has no parameters.

    Raises:
        BenchError: there are several maps, or the channels of the one are not the classes.
    """
    if list(channels) != [classes]:
        maps = ", ".join(map(str, channels))
        raise BenchError(
            f"this backbone has no masks of its own: its maps have {maps} channels, where one map "
            f"with a channel for each of the {classes} classes is needed. Choose a trained head "
            "(--protocol full) or a zero-shot backbone."
        )
    import torch.nn.functional as F

    from bench.api import Head

    class OwnLogits(Head):
        def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
            return F.interpolate(maps[0], size, mode="bilinear")  # (N, K, *size)

    return OwnLogits()


logits = HeadPlugin(
    name="logits", build=build, title="the backbone's own logits, resized; nothing is trained"
)
