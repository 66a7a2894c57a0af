"""Run an extractor on a device and in a precision, and check the shapes of its feature maps.

Shapes: P patches of S x S pixels; map i has C_i channels and h_i x w_i positions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from bench.api import FeatureExtractor
from bench.errors import BenchError
from bench.features.views import View


class ExtractorRunner:
    """An extractor with its view, device and precision; its weights are loaded on first use.

    Attributes:
        extractor: on the meta device until `load` is called, if a loader was passed.
        precision: "fp32", or "bf16" for autocast.
        frozen: whether the extractor has no trainable weights, so that its maps can be cached.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        view: View,
        device: torch.device,
        precision: str = "fp32",
        *,
        loader: Callable[[], FeatureExtractor] | None = None,
    ) -> None:
        """Create a runner.

        Args:
            loader: returns the extractor with its weights; None if `extractor` already has them.
        """
        self.extractor = extractor
        self.view = view
        self.device = device
        self.precision = precision
        self.frozen = not any(weight.requires_grad for weight in extractor.parameters())
        self._loader = loader

    def load(self) -> None:
        """Load the weights onto the device, unless they are loaded."""
        if self._loader is not None:
            with torch.inference_mode(False), torch.enable_grad():
                extractor = self._loader().to(self.device).eval()
            self.extractor = extractor.requires_grad_(False) if self.frozen else extractor
            self._loader = None

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of this precision."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def __call__(self, patches: Tensor) -> list[Tensor]:
        """Map (P, 3, S, S) in [0, 1] to [(P, C_i, h_i, w_i), ...] on the device, float32.

        Raises:
            BenchError: the maps do not have the declared channels and strides.
        """
        self.load()
        with self.autocast():
            maps = self.extractor(patches.to(self.device, non_blocking=True))
        self._check_shapes(maps, tuple(patches.shape))
        return [feature_map.float() for feature_map in maps]

    def _check_shapes(self, maps: object, input_shape: tuple[int, ...]) -> None:
        channels, strides = tuple(self.extractor.channels), tuple(self.extractor.strides)
        count, _, height, width = input_shape
        expected = [
            (count, c, height // stride, width // stride)
            for c, stride in zip(channels, strides, strict=False)
        ]
        shapes = [tuple(each.shape) for each in maps] if isinstance(maps, list) else None
        if shapes == expected and len(channels) == len(strides):
            return
        output = f"a {type(maps).__name__}, not a list" if shapes is None else f"the maps {shapes}"
        raise BenchError(
            f"the backbone returned {output}, but its channels {channels} and strides {strides} "
            f"require {expected}. Correct its forward, channels or strides; `bench check NAME` "
            "shows more."
        )
