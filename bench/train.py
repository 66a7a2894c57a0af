"""Fit whatever has `requires_grad`: a head on kept features, or a head with its extractor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Head, Progress, Recipe
from bench.augment import augmentation
from bench.errors import RunFailed
from bench.features import FeatureBank
from bench.optimise import optimiser, schedule, trained
from bench.parts import learn

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
        seed: orders the batches, and draws what `recipe.augment` changes.

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
    weights = trained(head, runner.extractor)
    stepper = optimiser(head, runner.extractor, recipe)
    steps = recipe.epochs * math.ceil(len(lesson.patches) / recipe.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(stepper, schedule(recipe, steps))
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    done, told = 0, "training"
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(lesson, recipe, generator):
            progress(told, done, steps)
            stepper.zero_grad(set_to_none=True)
            part = _prepared(head, lesson, batch, recipe, generator)
            loss = learn(part, range(len(batch)), stepper.zero_grad, lesson.bank.fits)
            losses.append(_finite(loss, step=len(losses), epoch=epoch))
            if recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
            stepper.step()
            rate.step()
            done += 1
        told = f"training: loss {sum(losses) / len(losses):.3f}"
    progress(told, done, steps)
    head.eval()
    runner.extractor.eval()
    return sum(losses) / len(losses)


def _let_the_head_look(head: Head, lesson: Lesson) -> None:
    if lesson.bank.runner.frozen:
        with torch.no_grad():
            head.observe(lesson.bank.maps([patch]) for patch in lesson.patches)


def _batches(lesson: Lesson, recipe: Recipe, generator: torch.Generator) -> Iterator[list[int]]:
    """Deal all patches into batches; in each, at least a share of `recipe.foreground` shows nuclei.

    Patches that show none give way to others that are drawn again.
    """
    order = torch.randperm(len(lesson.patches), generator=generator)
    shows = [bool(target.any()) for target in lesson.targets] if recipe.foreground else []
    rich = [number for number, own in enumerate(shows) if own]
    for part in order.split(recipe.batch_size):
        batch = part.tolist()
        missing = math.ceil(recipe.foreground * len(batch)) - sum(shows[i] for i in batch if shows)
        poor = [place for place, number in enumerate(batch) if shows and not shows[number]]
        for place in poor[: max(0, missing)] if rich else []:
            batch[place] = rich[int(torch.randint(len(rich), (1,), generator=generator))]
        yield batch


def _prepared(
    head: Head, lesson: Lesson, batch: Sequence[int], recipe: Recipe, generator: torch.Generator
) -> Callable[[Sequence[int]], Tensor]:
    """Draw all that is random of a batch; give the loss of those of its patches that are named."""
    runner = lesson.bank.runner
    patches = [lesson.patches[i] for i in batch]
    target = torch.stack([lesson.targets[i] for i in batch]).to(runner.device)  # (N, S, S)
    images = None
    if not runner.frozen:
        images = lesson.bank.pixels(patches).to(runner.device)  # (N, 3, S, S)
        images, target = augmentation(recipe.augment)(images, target, generator)

    def loss(some: Sequence[int]) -> Tensor:
        own = slice(some[0], some[-1] + 1)
        # [(n, C_i, h_i, w_i), ...]
        maps = lesson.bank.maps(patches[own]) if images is None else runner(images[own])
        with runner.autocast():
            return head.training_loss(maps, target[own])

    return loss


def _finite(value: float, step: int, epoch: int) -> float:
    if not math.isfinite(value):
        raise RunFailed(
            f"the loss became {value} at step {step + 1} of epoch {epoch + 1}; no score was made. "
            "Lower the learning rate (`--lr`)."
        )
    return value
