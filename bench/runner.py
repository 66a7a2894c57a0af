"""An extractor at work: where and how precisely it runs, and whether it gives what it promises.

Letters: P patches of S x S pixels; C_i channels and h_i x w_i places of map i.
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
    """An extractor with the place and precision in which it runs.

    Attributes:
        precision: "fp32", or "bf16" for autocast.
        loaded: whether it can run; an extractor on the meta device stands for maps that are kept.
    """

    extractor: FeatureExtractor
    view: View
    device: torch.device
    precision: str = "fp32"
    loaded: bool = True

    @property
    def frozen(self) -> bool:
        """Whether nothing in the extractor trains, so that its maps can be kept."""
        return not any(each.requires_grad for each in self.extractor.parameters())

    def autocast(self) -> AbstractContextManager[object]:
        """Give the autocast context of this precision."""
        wanted = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    def __call__(self, patches: Tensor) -> list[Tensor]:
        """Map (P, 3, S, S) in [0, 1] to [(P, C_i, h_i, w_i), ...] on the device, float32.

        Raises:
            BenchError: the maps are not those that the extractor promises.
            RunFailed: the extractor was not loaded, since all maps were there.
        """
        if not self.loaded:
            raise RunFailed(
                "kept features went away or were damaged while they were used; no score was made. "
                "Give the same command again."
            )
        with self.autocast():
            maps = self.extractor(patches.to(self.device, non_blocking=True))
        self._hold_to_its_word(maps, tuple(patches.shape))
        return [each.float() for each in maps]

    def _hold_to_its_word(self, maps: object, shape: tuple[int, ...]) -> None:
        extractor, (count, _, height, width) = self.extractor, shape
        promised = list(zip(extractor.channels, extractor.strides, strict=False))
        wanted = [(count, c, height // stride, width // stride) for c, stride in promised]
        got = [tuple(each.shape) for each in maps] if isinstance(maps, list) else None
        if got != wanted or len(extractor.channels) != len(extractor.strides):
            found = f"the maps {got}" if got is not None else f"a {type(maps).__name__}, not a list"
            raise BenchError(
                f"the backbone gave {found}, where its channels {tuple(extractor.channels)} and "
                f"strides {tuple(extractor.strides)} promise {wanted}: mend it; `bench check NAME` "
                "tells more."
            )


def full_precision(device: str) -> AbstractContextManager[object]:
    """Suspend autocast, where a kind of device has it."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
