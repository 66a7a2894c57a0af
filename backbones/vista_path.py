"""VISTA-PATH, first release: zero-shot segmentation of the class that a text names.

The weights are checkpoints/pytorch_model.bin in the git-lfs store of
github.com/zhihuanglab/VISTA-PATH at commit f74f0b2, with the sha256
1ba1a4090cce3d9d7a9f7134f954b3353e438de5300e30a1074c811a429dc80b; in later commits the file is
another network. The licence permits research and other non-commercial use, but no redistribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api import FeatureExtractor


def build(*, text: str = "nuclei", threshold: float = 0.3) -> FeatureExtractor:
    """Build the network with random weights.

    Args:
        text: name of the class to segment.
        threshold: probability above which a pixel belongs to the class; the release uses 0.3.
    """
    from ._vista_path import VistaPath

    return VistaPath(text, threshold)


def _convert(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    from ._vista_path import released_state

    return released_state(state)


VISTA_PATH = Backbone(
    name="vista-path",
    build=build,
    weights=Weights(needed=True),
    convert=_convert,
    title="VISTA-PATH, first release: zero-shot by text; needs --checkpoint pytorch_model.bin",
    paper="https://arxiv.org/abs/2601.16451",
    license="Penn academic, non-commercial",
    params=167_570_479,
    patch=32,
    trained_on=(
        "OpenPath",
        "TCGA",
    ),  # OpenPath by PLIP; the release has TCGA examples
    input_px=224,
    default_head="logits",
)
