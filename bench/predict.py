"""From a trained head to the nuclei of an image: plainly, over mirror images, or after adaptation.

Letters: P patches of an image, K classes, S side of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.adapt import Adaptation, adapt, restored
from bench.api import Head, Prediction
from bench.errors import RunFailed
from bench.features import FeatureBank
from bench.interface import SelfTaught
from bench.stats import seeded

FLIPS = ((), (2,), (3,), (2, 3))  # dimensions of (N, K, H, W) that a mirror image reverses


@dataclass(frozen=True)
class Segmenter:
    """A head on its features, ready to find the nuclei of any image of a bank.

    Attributes:
        mirror: average the logits over the four mirror images; for an extractor that trains.
        adaptation: test-time training of the extractor on each image.
        seed: of the adaptation, together with the image's id.
        undo: brings logits (K, H, W) of a shifted image to their places; None: it was not shifted.
    """

    head: Head
    bank: FeatureBank
    mirror: bool = False
    adaptation: Adaptation | None = None
    seed: int = 0
    undo: Callable[[Tensor], Tensor] | None = None

    @contextmanager
    def opened(self) -> Iterator[Segmenter]:
        """Give this back, and the extractor its weights afterwards."""
        with restored(self._weights):
            yield self

    def __call__(self, image: str, size: tuple[int, ...]) -> Prediction:
        """Find the nuclei of an image, at native resolution.

        Raises:
            RunFailed: a logit, or the loss of an adaptation, is not finite.
        """
        height, width = size
        patches = [(image, n) for n in range(self.bank.runner.view.patches(height, width))]
        once = self.adaptation is not None and not self.adaptation.online
        with restored(self._weights) if once else nullcontext():
            if self.adaptation is not None:
                number = int(seeded(f"ttt\n{self.seed}\n{image}").integers(2**62))
                generator = torch.Generator().manual_seed(number)
                adapt(self.bank.runner, self.bank.pixels(patches), self.adaptation, generator)
            logits = self._logits(patches, (height, width))
        if not bool(torch.isfinite(logits).all()):
            raise RunFailed(f"the logits of image {image!r} are not finite; no score was made")
        mask = self.head.decode(logits[None])[0] == 1  # (H, W)
        return Prediction(mask.cpu().numpy(), logits.softmax(0)[1].cpu().numpy())

    @property
    def _weights(self) -> list[nn.Parameter]:
        extractor = self.bank.runner.extractor
        if self.adaptation is None or not isinstance(extractor, SelfTaught):
            return []
        return list(extractor.part(self.adaptation.part))

    @torch.inference_mode()
    def _logits(self, patches: list[tuple[str, int]], size: tuple[int, int]) -> Tensor:
        """Give the logits of an image, (K, H, W), patch by patch."""
        parts = torch.cat([self._of_patch(patch) for patch in patches])  # (P, K, S, S)
        logits = self.bank.runner.view.merge(parts, size)
        return logits if self.undo is None else self.undo(logits)

    def _of_patch(self, patch: tuple[str, int]) -> Tensor:
        if self.mirror:
            pixels = self.bank.pixels([patch])  # (1, 3, S, S)
            seen = [self._head_on(self.bank.runner(pixels.flip(axes))).flip(axes) for axes in FLIPS]
            return torch.stack(seen).mean(0)  # (1, K, S, S)
        if self.adaptation is not None:
            return self._head_on(self.bank.fresh([patch]))
        return self._head_on(self.bank.maps([patch]))

    def _head_on(self, maps: list[Tensor]) -> Tensor:
        runner = self.bank.runner
        with runner.autocast():
            return self.head(maps, size=(runner.view.px, runner.view.px)).float()  # (1, K, S, S)
