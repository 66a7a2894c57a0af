"""TransUNet (R50 + ViT-B/16), trained from scratch: the end-to-end reference of the CMD paper.

With the head `decoder-cup` it has 105,276,066 parameters at 224 pixels and two classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Backbone, Recipe, Weights

if TYPE_CHECKING:
    from bench.api import FeatureExtractor

RECIPE = Recipe(  # arXiv:2102.04306, section 4.2, with the epochs of arXiv:2605.08276
    epochs=150,
    lr=0.01,
    optimiser="sgd",
    momentum=0.9,
    weight_decay=1e-4,
    schedule="poly",
    power=0.9,
    augment="turns",
)


def _build(*, input_px: int = 224) -> FeatureExtractor:
    """Build the extractor with position embeddings for inputs of side `input_px`."""
    from ._transunet import TransUNetExtractor

    return TransUNetExtractor(input_px)


TRANSUNET = Backbone(
    name="transunet",
    build=_build,
    weights=Weights(needed=False),
    title="TransUNet: R50 and ViT-B/16, trained from scratch",
    paper="https://arxiv.org/abs/2102.04306",
    license="none needed",
    params=97_888_576,
    patch=16,
    default_head="decoder-cup",
    recipe=RECIPE,
)
