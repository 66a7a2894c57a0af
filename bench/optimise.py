"""The optimiser and schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from bench.api import FeatureExtractor, Head, Recipe
from bench.errors import BenchError

SHARE_OF_WARMUP = 10  # a warm-up takes at most one step in ten


def trained(*modules: nn.Module) -> list[nn.Parameter]:
    """List what has `requires_grad`."""
    return [each for module in modules for each in module.parameters() if each.requires_grad]


def optimiser(head: Head, extractor: FeatureExtractor, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser of everything that trains.

    With a `layer_decay` below 1 a layer of the extractor learns at the rate of the next one times
    that factor (Bao et al., arXiv 2106.08254), the last one and the head at the full rate, and
    vectors do not decay.
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
    """Group the weights of a layer that train by whether they decay."""
    trains = [each for each in layer if each.requires_grad]
    vectors = [each for each in trains if each.ndim <= 1]
    others = [each for each in trains if each.ndim > 1]
    both = ((others, recipe.weight_decay), (vectors, 0.0))
    return [
        {"params": weights, "lr": recipe.lr * factor, "weight_decay": decay}
        for weights, decay in both
        if weights
    ]


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Give the factor of the learning rate at each of `steps` steps, counted from 0.

    Raises:
        BenchError: an unknown schedule.
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
        rising = (step + 1) / warmup if step < warmup else 1.0
        return rising * shape(min(step / steps, 1.0))

    return factor
