"""Run an extractor on a device and in a precision, and check the shapes of its feature maps.

Shapes: P patches of S x S pixels; map i has C_i channels and h_i x w_i positions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import FeatureExtractor
from bench.errors import BenchError, RunFailed
from bench.views import View


@dataclass(frozen=True)
class Runner:
    """An extractor with its view, device and precision.

    Attributes:
        precision: "fp32", or "bf16" for autocast.
        loaded: whether its weights are loaded; an extractor on the meta device has cached maps.
    """

    extractor: FeatureExtractor
    view: View
    device: torch.device
    precision: str = "fp32"
    loaded: bool = True

    @property
    def frozen(self) -> bool:
        """Whether the extractor has no trainable weights, so that its maps can be cached."""
        return not any(weight.requires_grad for weight in self.extractor.parameters())

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of this precision."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def __call__(self, patches: Tensor) -> list[Tensor]:
        """Map (P, 3, S, S) in [0, 1] to [(P, C_i, h_i, w_i), ...] on the device, float32.

        Raises:
            BenchError: the maps do not have the declared channels and strides.
            RunFailed: the extractor is not loaded, because all maps were cached.
        """
        if not self.loaded:
            raise RunFailed(
                "cached features were removed or damaged during the run, so there is no score. "
                "Run the same command again."
            )
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


def full_precision(device: str) -> AbstractContextManager[object]:
    """Return a context that disables autocast, if the device type supports autocast."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
