"""Deep supervision as in nnU-Net (Isensee et al., Nature Methods 2021, arXiv:1809.10486).

Every map of a U-Net's decoder is classified and has a loss, so that gradients reach the coarse
stages directly. The loss weights halve from map to map; the coarsest map has weight 0.

Symbols: N images, C_i channels and h_i x w_i pixels of map i, finest first, K classes, H x W the
output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Head

SLOPE = 0.01  # negative slope of nnU-Net's leaky ReLU, for the initialisation
SMOOTH = 1e-5


class DeepSupervisionHead(Head):
    """One Conv1x1 C_i -> K per map; inference uses the finest map only."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.weights = supervision_weights(len(channels))
        self.classify = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in channels)
        for layer in self.classify.children():
            _initialise(layer)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map [(N, C_i, h_i, w_i), ...] to logits (N, K, *size)."""
        logits = self.classify[0](maps[0])  # (N, K, h_0, w_0)
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear")  # (N, K, H, W)

    def training_loss(self, maps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the weighted sum of the losses of all maps, each at the map's resolution.

        The coarsest map has weight 0, as in nnU-Net: its layer counts as parameters of the network
        but is not trained.

        Args:
            maps: [(N, C_i, h_i, w_i), ...].
            target: (N, H, W) int64 class indices.
        """
        total = maps[0].new_zeros(())
        for features, layer, weight in zip(maps, self.classify, self.weights, strict=True):
            logits = layer(features).float()  # (N, K, h_i, w_i)
            total = total + weight * self.loss(logits, shrink(target, logits))
        return total

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return cross-entropy + Dice loss as in nnU-Net's 2D default.

        The Dice is computed for the foreground classes over all pixels of the batch, with 1e-5
        added to numerator and denominator. nnU-Net subtracts the Dice; 1 - Dice has the same
        gradient.

        Args:
            logits: (N, K, H, W).
            target: (N, H, W) int64 class indices.
        """
        probabilities = logits.float().softmax(dim=1)[:, 1:]  # (N, K-1, H, W)
        truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:]  # (N, K-1, H, W)
        overlap = (probabilities * truth).sum(dim=(0, 2, 3))  # (K-1,)
        total = (probabilities + truth).sum(dim=(0, 2, 3))  # (K-1,)
        dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
        return F.cross_entropy(logits.float(), target) + 1 - dice.mean()


def supervision_weights(maps: int) -> tuple[float, ...]:
    """Return weights 1, 1/2, 1/4, ..., 0 scaled to sum 1; a single map has weight 1."""
    halved = [2.0**-level for level in range(max(1, maps - 1))]
    weights = [weight / sum(halved) for weight in halved]
    return tuple(weights + [0.0] * (maps - len(weights)))


def shrink(target: Tensor, logits: Tensor) -> Tensor:
    """Resize (N, H, W) class indices to the size of (N, K, h, w) logits, nearest-exact."""
    size = logits.shape[-2:]
    if target.shape[-2:] == size:
        return target
    nearest = F.interpolate(target[:, None].float(), size, mode="nearest-exact")  # (N, 1, h, w)
    return nearest[:, 0].long()  # (N, h, w)


def _initialise(layer: nn.Module) -> None:
    """Initialise weights as in He et al. (ICCV 2015, arXiv:1502.01852), biases to 0."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    nn.init.zeros_(layer.bias)
