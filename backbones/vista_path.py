"""VISTA-PATH, first release: segments what a text names, here without a box and without training.

Its weights lie in the git-lfs store of github.com/zhihuanglab/VISTA-PATH at the commit f74f0b2, as
checkpoints/pytorch_model.bin with the sha256
1ba1a4090cce3d9d7a9f7134f954b3353e438de5300e30a1074c811a429dc80b; later commits hold another network
under that name. Their terms allow research and other non-commercial use, and no passing on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Backbone, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api import FeatureExtractor


def build(*, text: str = "nuclei", threshold: float = 0.3) -> FeatureExtractor:
    """Build the network; `text` names the class, found where its probability is above `threshold`.

    0.3 is the threshold of the release.
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
    title="VISTA-PATH, first release: zero-shot by text; --checkpoint pytorch_model.bin",
    paper="https://arxiv.org/abs/2601.16451",
    license="Penn academic, non-commercial",
    params=167_570_479,
    patch=32,
    trained_on=("OpenPath", "TCGA"),  # PLIP's; and TCGA, as the release's examples are
    input_px=224,
    default_head="logits",
)
