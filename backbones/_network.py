"""Description of a released model: timm architecture, normalisation, and state dict layout.

Importing it imports neither torch nor timm, so that listing the backbones is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.api import Weights

from ._keys import Layout, transformers_layout

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ._timm import TimmExtractor

Colours = tuple[tuple[float, float, float], tuple[float, float, float]]

IMAGENET: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Colours = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: Colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SWIGLU: Mapping[str, Any] = MappingProxyType({"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"})


@dataclass(frozen=True)
class Network:
    """A timm network and the format of its released weights.

    Attributes:
        architecture: timm's name, with or without the tag of a release.
        options: further arguments of `timm.create_model`; layer types by their key in
            `_timm.LAYERS`.
        colours: mean and std of RGB in [0, 1]; None: those of timm's configuration of the release.
        layout: names in the released state dict; None: timm's, or ones that timm can convert.
    """

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    colours: Colours | None = None
    layout: Layout | None = None

    def build(self, *, layers: tuple[int, ...] | None = None) -> TimmExtractor:
        """Build the extractor with random weights.

        Args:
            layers: ascending numbers of the blocks (of a hierarchical model: stages) whose maps are
                returned; None: the last map only.
        """
        mean, std = self.colours or (None, None)
        extractor = self._extractor_class()
        return extractor(self.architecture, mean=mean, std=std, layers=layers, options=self.options)

    def convert(self, state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
        """Convert a released state dict, or one of transformers, to the names of the extractor."""
        from ._timm import released_state

        return (self.layout or transformers_layout(state) or released_state)(state, extractor)

    def hosted(self, revision: str | None = None, sha256: str | None = None) -> Weights:
        """Return the file in timm's repository of the release that the architecture's tag names."""
        return Weights(
            repo=f"timm/{self.architecture}",
            file="model.safetensors",
            revision=revision,
            sha256=sha256,
        )

    def _extractor_class(self) -> type[TimmExtractor]:
        import timm

        from ._timm import TimmExtractor
        from ._timm_families import ColourwiseExtractor, SamExtractor, SwinExtractor

        if self.options.get("in_chans") == 1:
            return ColourwiseExtractor
        module = timm.model_entrypoint(self.architecture).__module__
        extractors = {
            "timm.models.vision_transformer_sam": SamExtractor,
            "timm.models.swin_transformer": SwinExtractor,
        }
        return extractors.get(module, TimmExtractor)
