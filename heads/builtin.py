"""The built-in heads. A build function imports torch when it is called, so listing stays fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import HeadPlugin, LinearRecipe
from bench.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Head


def build_linear(
    channels: Sequence[int], strides: Sequence[int], classes: int, *, standardise: bool = True
) -> Head:
    """Build the linear probe: sum(C) K + K parameters.

    Args:
        channels: channels of each map, finest map first.
        strides: stride of each map.
        classes: number of classes, background included.
        standardise: scale features to mean 0 and standard deviation 1, see `LinearHead`.
    """
    from ._linear import LinearHead

    return LinearHead(channels, classes, standardise=standardise)


def build_light(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the light head: 7,147,266 parameters for CMD-L's six maps (7.15 M in the paper)."""
    from ._light import LightHead

    return LightHead(channels, strides, classes)


def build_decoder(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build the convolutional decoder: 4608 sum(C) + 2,337,122 parameters for two classes.

    That is 5.88 M for a ViT-B and 21.21 M for CMD-L.
    """
    from ._decoder import DecoderHead

    return DecoderHead(channels, strides, classes)


def build_decoder_cup(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build TransUNet's cascaded up-sampler: 7,387,490 parameters for TransUNet's maps."""
    from ._decoder_cup import DecoderCup

    return DecoderCup(channels, strides, classes)


def build_deep_supervision(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build nnU-Net's head: one classifier per map, (sum(C) + number of maps) K parameters."""
    from ._deep_supervision import DeepSupervisionHead

    return DeepSupervisionHead(channels, classes)


def build_upernet(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build UperNet, the head of ViT-Adapter.

    It has 32,257,026 parameters for four maps of 768 channels, and 1,770,498 more in an auxiliary
    head that is used in training only.
    """
    from ._upernet import UperHead

    return UperHead(channels, classes)


def build_logits(channels: Sequence[int], strides: Sequence[int], classes: int) -> Head:
    """Build a head without parameters that resizes the logits of a zero-shot backbone.

    Raises:
        BenchError: the backbone does not return one map with one channel per class.
    """
    if list(channels) != [classes]:
        raise BenchError(
            "the head 'logits' needs a backbone that returns one map with one channel for each of "
            f"the {classes} classes, got maps with {', '.join(map(str, channels))} channels. "
            "Choose a trained head (--protocol full) or a zero-shot backbone."
        )
    import torch.nn.functional as F

    from bench.api import Head

    class ResizedLogits(Head):
        def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
            return F.interpolate(maps[0], size, mode="bilinear")  # (N, K, *size)

    return ResizedLogits()


linear = HeadPlugin(
    name="linear",
    build=build_linear,
    recipe=LinearRecipe(),
    title="one 1x1 convolution over all maps",
    paper="arXiv:2605.08276, section 4.1.3",
)
light = HeadPlugin(
    name="light",
    build=build_light,
    title="top-down fusion of the paper, Figure B2 A",
    paper="arXiv:2605.08276, Figure B2 (A), after Li et al., ICCV 2023, arXiv:2301.05221",
)
decoder = HeadPlugin(
    name="decoder",
    build=build_decoder,
    title="convolutional decoder of the paper, Figure B2 B",
    paper="arXiv:2605.08276, Figure B2 (B)",
)
decoder_cup = HeadPlugin(
    name="decoder-cup",
    build=build_decoder_cup,
    title="cascaded up-sampler of TransUNet, with skips",
    paper="arXiv:2102.04306, section 3.2",
)
deep_supervision = HeadPlugin(
    name="deep-supervision",
    build=build_deep_supervision,
    title="nnU-Net's deep supervision: one 1x1 convolution and one loss per map",
    paper="arXiv:1809.10486, Isensee et al., Nature Methods 2021",
)
upernet = HeadPlugin(
    name="upernet",
    build=build_upernet,
    title="UperNet: feature pyramid with pooling, and an auxiliary loss",
    paper="https://arxiv.org/abs/1807.10221",
)
logits = HeadPlugin(
    name="logits",
    build=build_logits,
    title="the logits of a zero-shot backbone, resized; nothing is trained",
)
