"""Fit whatever has `requires_grad`: a head on kept features, or a head with its extractor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api import Head, Progress, Recipe
from bench.errors import RunFailed
from bench.features import FeatureBank

Patch = tuple[str, int]  # image id, number of the patch


@dataclass(frozen=True)
class Lesson:
    """What to learn from: patches in a bank and their targets, (S, S) int64 each."""

    bank: FeatureBank
    patches: Sequence[Patch]
    targets: Sequence[Tensor]


def fit(head: Head, lesson: Lesson, recipe: Recipe, seed: int, progress: Progress) -> float:
    """Train the head, and the extractor where it is not frozen, in place.

    Args:
        seed: orders the batches.

    Returns:
        The mean loss of the last epoch.

    Raises:
        RunFailed: the loss is not finite; names the step.
    """
    runner = lesson.bank.runner
    head.train()
    if not runner.frozen:
        runner.extractor.train()
    _let_the_head_look(head, lesson)
    modules = nn.ModuleList([head, runner.extractor])
    weights = [each for each in modules.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(len(lesson.patches) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(lesson.patches), generator=generator)
        losses = []
        for batch in order.split(recipe.batch_size):
            loss = _loss(head, lesson, batch.tolist())
            losses.append(_finite(loss, step=len(losses), epoch=epoch))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        progress("training", epoch + 1, recipe.epochs)
    head.eval()
    runner.extractor.eval()
    return sum(losses) / len(losses)


def _let_the_head_look(head: Head, lesson: Lesson) -> None:
    if lesson.bank.runner.frozen:
        with torch.no_grad():
            head.observe(lesson.bank.maps([patch]) for patch in lesson.patches)


def _loss(head: Head, lesson: Lesson, batch: Sequence[int]) -> Tensor:
    runner = lesson.bank.runner
    maps = lesson.bank.maps([lesson.patches[i] for i in batch])  # [(N, C_i, h_i, w_i), ...]
    target = torch.stack([lesson.targets[i] for i in batch]).to(runner.device)  # (N, S, S)
    with runner.autocast():
        return head.training_loss(maps, target)


def _finite(loss: Tensor, step: int, epoch: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunFailed(
            f"the loss became {value} at step {step + 1} of epoch {epoch + 1}; no score was made. "
            "Lower the learning rate (`--lr`)."
        )
    return value
