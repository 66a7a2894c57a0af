"""What a released model is: the timm network, its colours, and the names in its file.

A file of records names networks by these, and imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.api import Weights

from ._keys import Layout

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
    """A network of timm and how a release of it is read.

    Attributes:
        architecture: timm's name, with or without the tag of a release.
        options: further arguments of timm; layers by their word in `_timm.PARTS`.
        colours: mean and std of RGB in [0, 1]; None: those that timm names for the release.
        layout: how the released file names the parts; None: as timm does, or its filters know.
    """

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    colours: Colours | None = None
    layout: Layout | None = None

    def build(self, *, layers: tuple[int, ...] | None = None) -> TimmExtractor:
        """Build the extractor with random weights.

        Args:
            layers: numbers of the blocks (of a hierarchical model: stages) whose maps are given,
                rising; None: the last map alone.
        """
        mean, std = self.colours or (None, None)
        kind = self._kind()
        return kind(self.architecture, mean=mean, std=std, layers=layers, options=self.options)

    def convert(self, state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
        """Bring the released state dict to the names of the extractor."""
        from ._timm import released_state

        return (self.layout or released_state)(state, extractor)

    def hosted(self, revision: str | None = None, sha256: str | None = None) -> Weights:
        """Name the file that timm's authors host of a release: the architecture has its tag."""
        return Weights(
            repo=f"timm/{self.architecture}",
            file="model.safetensors",
            revision=revision,
            sha256=sha256,
        )

    def _kind(self) -> type[TimmExtractor]:
        """Choose the extractor by the family of the network in timm, and its channels."""
        import timm

        from ._colourwise import ColourwiseExtractor
        from ._sam import SamExtractor
        from ._swin import SwinExtractor
        from ._timm import TimmExtractor

        if self.options.get("in_chans") == 1:
            return ColourwiseExtractor
        family = timm.model_entrypoint(self.architecture).__module__
        kinds = {
            "timm.models.vision_transformer_sam": SamExtractor,
            "timm.models.swin_transformer": SwinExtractor,
        }
        return kinds.get(family, TimmExtractor)
