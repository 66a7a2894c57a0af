"""Predict the nuclei of an image, optionally with mirroring or test-time training.

Shapes: P patches of an image, K classes, S side of a patch in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api import Head, Prediction
from bench.api.experiment import Adaptation
from bench.api.nn import SelfSupervised
from bench.api.seeds import generator_of
from bench.errors import RunFailed
from bench.features.bank import FeatureBank
from bench.training.test_time import adapt, restored

FLIPS = ((), (2,), (3,), (2, 3))  # flipped dimensions of (N, K, H, W)


@dataclass(frozen=True)
class Predictor:
    """A trained head and a feature bank that predict the nuclei of images.

    Attributes:
        mirror: average the logits over the four mirror images; for an extractor that trains.
        adaptation: test-time training of the extractor on each image.
        seed: of the adaptation, together with the image id.
        undo: maps logits (K, H, W) of a shifted image to the original geometry; None if images are
            not shifted.
    """

    head: Head
    bank: FeatureBank
    mirror: bool = False
    adaptation: Adaptation | None = None
    seed: int = 0
    undo: Callable[[Tensor], Tensor] | None = None

    @contextmanager
    def opened(self) -> Iterator[Predictor]:
        """Return this object as a context that restores the extractor's weights on exit."""
        with restored(self._weights):
            yield self

    def __call__(self, image: str, size: tuple[int, ...]) -> Prediction:
        """Predict the nuclei of an image at its original size.

        Args:
            image: id of the image.
            size: its height and width in pixels.

        Raises:
            RunFailed: the logits, or the loss of the adaptation, are not finite.
        """
        height, width = size
        patches = [(image, i) for i in range(self.bank.runner.view.patches(height, width))]
        restore = self.adaptation is not None and not self.adaptation.online
        with restored(self._weights) if restore else nullcontext():
            if self.adaptation is not None:
                seed = int(generator_of(f"ttt\n{self.seed}\n{image}").integers(2**62))
                generator = torch.Generator().manual_seed(seed)
                adapt(self.bank.runner, self.bank.pixels(patches), self.adaptation, generator)
            logits = self._logits(patches, (height, width))  # (K, H, W)
        if not bool(torch.isfinite(logits).all()):
            raise RunFailed(f"the logits of image {image!r} are not finite, so there is no score")
        mask = self.head.decode(logits[None])[0] == 1  # (H, W)
        return Prediction(mask.cpu().numpy(), logits.softmax(0)[1].cpu().numpy())

    @property
    def _weights(self) -> list[nn.Parameter]:
        extractor = self.bank.runner.extractor
        if self.adaptation is None or not isinstance(extractor, SelfSupervised):
            return []
        return list(extractor.parameter_group(self.adaptation.part))

    @torch.inference_mode()
    def _logits(self, patches: list[tuple[str, int]], size: tuple[int, int]) -> Tensor:
        """Return the logits of an image, (K, H, W)."""
        patch_logits = torch.cat([self._patch_logits(patch) for patch in patches])  # (P, K, S, S)
        logits = self.bank.runner.view.merge(patch_logits, size)
        return logits if self.undo is None else self.undo(logits)

    def _patch_logits(self, patch: tuple[str, int]) -> Tensor:
        if self.mirror:
            pixels = self.bank.pixels([patch])  # (1, 3, S, S)
            logits = [
                self._apply_head(self.bank.runner(pixels.flip(axes))).flip(axes) for axes in FLIPS
            ]
            return torch.stack(logits).mean(0)  # (1, K, S, S)
        if self.adaptation is not None:
            return self._apply_head(self.bank.fresh([patch]))
        return self._apply_head(self.bank.maps([patch]))

    def _apply_head(self, maps: list[Tensor]) -> Tensor:
        runner = self.bank.runner
        with runner.autocast():
            return self.head(maps, size=(runner.view.px, runner.view.px)).float()  # (1, K, S, S)
