"""The one interface: images in, a pyramid of feature maps out; maps in, logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from bench.loss import cross_entropy_and_dice

if TYPE_CHECKING:
    from bench.pretrain.objective import Objective


class FeatureExtractor(nn.Module, ABC):
    """Images in, a pyramid of feature maps out. What trains is what has `requires_grad`.

    Attributes:
        channels: C_i of each map.
        strides: s_i, input pixels per map pixel, in the same order.
        mean, std: the normalisation that `forward` itself applies, of RGB in [0, 1]; there is no
            default, since a wrong one lowers every score in silence. None is (0, 0, 0), (1, 1, 1).
        facts: settings that change the maps and are worth a line in the record.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    facts: Mapping[str, object] = {}

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) RGB in [0, 1] to [(N, C_i, H / s_i, W / s_i), ...].

        H and W are divisible by every stride.
        """

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state dict whose names and shapes are exactly this extractor's.

        Raises:
            RuntimeError: a name or a shape differs.
        """
        self.load_state_dict(state, strict=True)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Group the parameters from input to output, for `Recipe.layer_decay`; here one group."""
        return [list(self.parameters())]

    def embed(self, images: Tensor) -> Tensor:
        """Describe whole images: (N, 3, H, W) RGB in [0, 1] to (N, D)."""
        return self(images)[-1].mean(dim=(2, 3))  # (N, C)

    def normalise(self, images: Tensor) -> Tensor:
        """Apply (x - mean) / std to RGB in [0, 1]."""
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        return (images - mean) / std


class SelfTaught(ABC):
    """An extractor that can learn from images without labels, while it is used (`bench.adapt`)."""

    @abstractmethod
    def own_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Give the loss of pretraining on (N, 3, H, W) RGB in [0, 1].

        Args:
            generator: of the CPU; draws what is random in it.
        """

    @abstractmethod
    def restore(
        self,
        images: Tensor,
        t: Tensor,
        *,
        objective: Objective,
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Corrupt (N, 3, H, W) RGB in [0, 1] at (N,) times, and restore them.

        Args:
            objective: the corruption of the pretraining, and what the network predicts.
            generators: N, of the CPU.

        Returns:
            What the network was given and what it restores, both (N, 3, H, W), about in [0, 1].
        """

    @abstractmethod
    def part(self, name: str) -> Sequence[nn.Parameter]:
        """Give the parameters that a word stands for.

        Raises:
            BenchError: there are none of that name.
        """


class Head(nn.Module, ABC):
    """Feature maps in, per-pixel logits out."""

    classes: ClassVar[tuple[str, ...]] = ("background", "nucleus")

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""

    def observe(self, maps: Iterable[Sequence[Tensor]]) -> None:
        """Look once at the maps of every training patch, before training; by default do nothing."""

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Give the loss of a training step: by default that of the logits alone.

        A head with auxiliary outputs adds theirs.

        Args:
            maps: [(N, C_i, h_i, w_i), ...].
            target: (N, H, W) int64 class numbers.
        """
        height, width = target.shape[-2:]
        return self.loss(self(maps, size=(height, width)).float(), target)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy + Dice over all classes (both as in the paper, section 4.1.3).

        Args:
            logits: (N, K, H, W).
            target: (N, H, W) int64 class numbers.
        """
        return cross_entropy_and_dice(logits.float(), target)

    @torch.inference_mode()
    def decode(self, logits: Tensor) -> Tensor:
        """Turn logits (N, K, H, W) into class numbers (N, H, W) int64."""
        return logits.argmax(dim=1)
