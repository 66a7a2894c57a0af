"""The optimiser and schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from bench.api import FeatureExtractor, Head, Recipe
from bench.errors import BenchError

SHARE_OF_WARMUP = 10  # the warm-up takes at most one step in ten


def trained(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the parameters with `requires_grad`."""
    return [weight for module in modules for weight in module.parameters() if weight.requires_grad]


def optimiser(head: Head, extractor: FeatureExtractor, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of all trainable parameters of the head and the extractor.

    With `layer_decay` below 1, the learning rate of each layer of the extractor is that of the next
    layer times this factor (Bao et al., arXiv 2106.08254); the last layer and the head have the
    full rate, and vectors have no weight decay.

    Raises:
        BenchError: unknown optimiser.
    """
    if recipe.layer_decay == 1:
        groups = [{"params": trained(head, extractor)}]
    else:
        layers = [list(layer) for layer in extractor.layers()]
        groups = [
            group
            for depth, layer in enumerate([*layers[:-1], [*layers[-1], *trained(head)]])
            for group in _groups(layer, recipe, recipe.layer_decay ** (len(layers) - 1 - depth))
        ]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    raise BenchError(f"the optimiser {recipe.optimiser!r} is not one of adamw, sgd.")


def _groups(
    layer: Iterable[nn.Parameter], recipe: Recipe, factor: float
) -> list[dict[str, object]]:
    """Return the parameter groups of a layer: weights with decay, and vectors without."""
    trainable = [weight for weight in layer if weight.requires_grad]
    matrices = [weight for weight in trainable if weight.ndim > 1]
    vectors = [weight for weight in trainable if weight.ndim <= 1]
    return [
        {"params": weights, "lr": recipe.lr * factor, "weight_decay": decay}
        for weights, decay in ((matrices, recipe.weight_decay), (vectors, 0.0))
        if weights
    ]


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the step, from 0 to `steps` - 1.

    Raises:
        BenchError: unknown schedule.
    """
    warmup = min(recipe.warmup_steps, steps // SHARE_OF_WARMUP)
    shapes: dict[str, Callable[[float], float]] = {
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "poly": lambda done: (1 - done) ** recipe.power,
    }
    if recipe.schedule not in shapes:
        raise BenchError(f"the schedule {recipe.schedule!r} is not one of {', '.join(shapes)}.")
    shape = shapes[recipe.schedule]

    def factor(step: int) -> float:
        warmup_factor = (step + 1) / warmup if step < warmup else 1.0
        return warmup_factor * shape(min(step / steps, 1.0))

    return factor
