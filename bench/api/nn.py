"""The torch interface: images to feature maps, feature maps to logits, and the losses of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


class SelfSupervised(ABC):
    """An extractor with a self-supervised loss (see `bench.training.test_time`)."""

    @abstractmethod
    def self_supervised_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the pretraining loss of (N, 3, H, W) RGB in [0, 1].

        Args:
            generator: CPU generator of the random draws.
        """

    @abstractmethod
    def reconstruct(
        self,
        images: Tensor,
        t: Tensor,
        *,
        objective: Objective,
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Corrupt (N, 3, H, W) RGB in [0, 1] at (N,) time steps, and reconstruct them.

        Args:
            objective: the corruption, and the meaning of the network's prediction.
            generators: N CPU generators, one per image.

        Returns:
            The corrupted and the reconstructed images, both (N, 3, H, W), in about [0, 1].
        """

    @abstractmethod
    def parameter_group(self, name: str) -> Sequence[nn.Parameter]:
        """Return a named group of parameters, for example to train at test time.

        Raises:
            BenchError: there is no group of this name.
        """


class Head(nn.Module, ABC):
    """Feature maps in, per-pixel logits out.

    Attributes:
        classes: names of the classes, the background first.
        loss_is_of_logits: whether the `training_loss` of the same class equals `loss(logits)` up to
            rounding, so that a batch can be divided without a change. A class that overrides
            `training_loss` without setting this is not.
    """

    classes: ClassVar[tuple[str, ...]] = ("background", "nucleus")
    loss_is_of_logits: ClassVar[bool] = True

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


class LinearClassifier(Head):
    """A head whose logits are linear in the features; `bench.training.probe` can solve it."""

    @abstractmethod
    def set_solution(
        self, mean: Tensor, deviation: Tensor, weight: Tensor, bias: Tensor, threshold: float
    ) -> None:
        """Set the classifier of two classes.

        Args:
            mean, deviation: of every channel, (sum(C),) each.
            weight: of the logit of a nucleus minus that of the background, by standardised channel,
                (sum(C),).
            bias: of the same difference, ().
            threshold: probability above which a pixel is a nucleus.
        """


def cross_entropy_and_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of logits (N, K, H, W), float32 or float64, and classes (N, H, W) int64."""
    if logits.shape[1] == 2:
        background, foreground = logits.unbind(1)  # (N, H, W) each
        return loss_of_margin(foreground - background, target)
    probabilities = logits.softmax(dim=1)  # (N, K, H, W)
    one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2)  # (N, K, H, W)
    overlap = (probabilities * one_hot).sum(dim=(0, 2, 3))  # (K,)
    total = (probabilities + one_hot).sum(dim=(0, 2, 3))  # (K,)
    dice = (2 * overlap + 1) / (total + 1)
    return F.cross_entropy(logits, target) + 1 - dice.mean()


def loss_of_margin(margin: Tensor, target: Tensor) -> Tensor:
    """Return the loss of two classes from the margin (N, H, W), foreground minus background."""
    loss = _LossOfMargin.apply(margin, target.to(margin.dtype))
    assert isinstance(loss, Tensor)
    return loss


class _LossOfMargin(torch.autograd.Function):
    """Mean cross-entropy + 1 - (D_0 + D_1) / 2.

    With S = sum f + sum w and O = sum f w, the Dice of foreground and background are
    D_1 = (2 O + 1) / (S + 1) and D_0 = (2 (P - S + O) + 1) / (2 P - S + 1).
    """

    @staticmethod
    def forward(ctx: Any, margin: Tensor, target: Tensor) -> Tensor:
        probability, pixels = margin.sigmoid(), target.numel()  # (N, H, W)
        overlap, total = (probability * target).sum(), probability.sum() + target.sum()
        foreground_dice = (2 * overlap + 1) / (total + 1)
        background_dice = (2 * (pixels - total + overlap) + 1) / (2 * pixels - total + 1)
        ctx.save_for_backward(probability, target, foreground_dice, background_dice, total)
        signed = torch.addcmul(margin, margin, target, value=-2)  # (N, H, W): m (1 - 2 w)
        confidence = (probability - 0.5).abs_().add_(0.5)  # (N, H, W): max(f, 1 - f)
        # softplus(x) = max(x, 0) - log sigmoid(|x|): 15 times faster than torch's on a CPU.
        cross_entropy = (signed.relu_().sum() - confidence.log_().sum()) / pixels
        return cross_entropy + 1 - (foreground_dice + background_dice) / 2

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        """Return (f - w) / P + f (1 - f) dL/df.

        The Dice part is dL/df = (u D_1 - v D_0) / 2 + v - (u + v) w with u = 1 / (S + 1) and
        v = 1 / (2 P - S + 1).
        """
        probability, target, foreground_dice, background_dice, total = ctx.saved_tensors
        pixels = target.numel()
        u, v = 1 / (total + 1), 1 / (2 * pixels - total + 1)
        gradient = target * -(u + v)  # (N, H, W)
        gradient += (u * foreground_dice - v * background_dice) / 2 + v
        gradient *= torch.addcmul(probability, probability, probability, value=-1)  # f (1 - f)
        gradient.add_(probability, alpha=1 / pixels).sub_(target, alpha=1 / pixels)
        return gradient.mul_(gradients[0]), None


class Objective(Protocol):
    """A corruption, and the loss of the network's prediction from the corrupted image."""

    def corrupt(self, clean: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Corrupt (N, K, H, W) at (N,) time steps, with one CPU generator per image."""
        ...

    def loss(self, prediction: Tensor, clean: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        """Return the scalar loss of a prediction (N, K, H, W)."""
        ...

    def restored(self, prediction: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        """Return the clean images (N, K, H, W) that a prediction implies."""
        ...


def full_precision(device: str) -> AbstractContextManager[object]:
    """Return a context that disables autocast, if the device type supports autocast."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
