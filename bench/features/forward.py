"""Run an extractor on a device and in a precision, and check the shapes of its feature maps.

Shapes: P patches of S x S pixels; map i has C_i channels and h_i x w_i positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.api import FeatureExtractor
from bench.errors import BenchError, RunFailed
from bench.features.views import View


@dataclass(frozen=True)
class ExtractorRunner:
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


_sums: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()  # when it was first seen


@contextmanager
def stays_frozen(
    extractor: nn.Module, was_used: Callable[[], bool], forget: Callable[[], object]
) -> Iterator[None]:
    """Sum up the bits of an extractor before and after a block that used it.

    Args:
        was_used: whether it was, in the block.
        forget: called where it has changed, to drop what the block made with it.

    Raises:
        RunFailed: a weight or a buffer has changed.
    """
    if extractor not in _sums:
        _sums[extractor] = sums(extractor)
    yield
    if was_used() and sums(extractor) != _sums[extractor]:
        forget()
        raise RunFailed(
            "the backbone is frozen, but changed its weights while it ran, so its features depend "
            "on the order of the images; no score was made. Mend its `forward`."
        )


def sums(module: nn.Module) -> list[int]:
    """Give the sum of the bits of every weight and buffer, as integers: one that changes shows."""
    return [_sum(each) for each in module.state_dict().values()]


def _sum(values: Tensor) -> int:
    single = values.detach().contiguous().flatten().view(torch.uint8)
    whole = len(single) // 8 * 8
    words = single[:whole].clone() if single.storage_offset() % 8 else single[:whole]
    return int(words.view(torch.int64).sum()) + int(single[whole:].sum())  # in eights: quicker
