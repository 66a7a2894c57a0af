"""Train a head on cached features, or a head together with its extractor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from bench.api import Head, Progress, Recipe
from bench.errors import RunFailed
from bench.features.bank import FeatureBank
from bench.features.out_of_memory import JointLoss, accumulate
from bench.training.augment import augmentation
from bench.training.memory import is_divisible
from bench.training.optim import optimiser, schedule, trained

Patch = tuple[str, int]  # image id, index of the patch
LATE_FALL = 0.05  # largest share of the fall of the loss after the middle of the training


@dataclass(frozen=True)
class TrainingSet:
    """A training set: patches of a feature bank and their targets, (S, S) int64 each."""

    bank: FeatureBank
    patches: Sequence[Patch]
    targets: Sequence[Tensor]


@dataclass(frozen=True)
class Fitted:
    """How a training ended: see `TrialResult.loss` and `TrialResult.training`."""

    loss: float | None
    training: Mapping[str, Any]


def fit(head: Head, lesson: TrainingSet, recipe: Recipe, seed: int, progress: Progress) -> Fitted:
    """Train the head, and an extractor that is not frozen, in place.

    Args:
        seed: of the order of the batches and of the augmentation.

    Raises:
        RunFailed: the loss is not finite.
    """
    runner = lesson.bank.runner
    head.train()
    if runner.frozen:
        with torch.no_grad():
            head.observe(lesson.bank.maps([patch]) for patch in lesson.patches)
    else:
        runner.extractor.train()
    weights, divisible = trained(head, runner.extractor), is_divisible(head, runner.extractor)
    optim = optimiser(head, runner.extractor, recipe)
    steps_per_epoch = math.ceil(len(lesson.patches) / recipe.batch_size)
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))
    steps = epochs * steps_per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optim, schedule(recipe, steps))
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    last_epoch, stage = math.inf, "training"
    for epoch in range(epochs):
        for batch in _batches(lesson, recipe, generator):
            progress(stage, len(losses), steps)
            optim.zero_grad(set_to_none=True)
            part, joint = _loss_of(head, lesson, batch, recipe, generator)
            loss = accumulate(
                part,
                range(len(batch)),
                optim.zero_grad,
                lesson.bank.fits,
                joint=joint,
                divisible=divisible,
            )
            losses.append(_finite(loss, step=len(losses) % steps_per_epoch, epoch=epoch))
            if recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
            optim.step()
            scheduler.step()
        last_epoch = sum(losses[-steps_per_epoch:]) / steps_per_epoch
        stage = f"training: loss {last_epoch:.3f}"
    progress(stage, len(losses), steps)
    head.eval()
    runner.extractor.eval()
    return Fitted(last_epoch, {"steps": steps, "converged": has_converged(losses)})


def has_converged(losses: Sequence[float]) -> bool:
    """Return whether the training loss no longer falls much.

    The fall from the middle fifth to the last fifth of the steps must be at most LATE_FALL of the
    fall from the first step to the last fifth. The last two fifths are not compared with each
    other: the learning rate is almost 0 there, so that the loss is constant in any training. A
    training of fewer than 10 steps has not converged.

    Args:
        losses: of all steps.
    """
    fifth = len(losses) // 5
    if fifth < 2:
        return False
    middle, last = fmean(losses[2 * fifth : 3 * fifth]), fmean(losses[-fifth:])
    return middle - last <= LATE_FALL * (losses[0] - last)


def _batches(
    lesson: TrainingSet, recipe: Recipe, generator: torch.Generator
) -> Iterator[list[int]]:
    """Split the shuffled patches into batches, oversampling nuclei.

    At least the share `recipe.foreground` of each batch shows nuclei: random patches with nuclei
    replace the first patches without.
    """
    order = torch.randperm(len(lesson.patches), generator=generator)
    batches = [part.tolist() for part in order.split(recipe.batch_size)]
    if not recipe.foreground:
        yield from batches
        return
    has_nuclei = [bool(target.any()) for target in lesson.targets]
    with_nuclei = [index for index, shows in enumerate(has_nuclei) if shows]
    for batch in batches:
        empty = [place for place, index in enumerate(batch) if not has_nuclei[index]]
        missing = math.ceil(recipe.foreground * len(batch)) - (len(batch) - len(empty))
        if with_nuclei and missing > 0:
            for place in empty[:missing]:
                choice = int(torch.randint(len(with_nuclei), (1,), generator=generator))
                batch[place] = with_nuclei[choice]
        yield batch


def _loss_of(
    head: Head,
    lesson: TrainingSet,
    batch: Sequence[int],
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[Callable[[Sequence[int]], Tensor], JointLoss | None]:
    """Augment a batch and return the loss of consecutive positions in it, and that of its logits.

    The second is None if the loss is not a function of the logits.
    """
    runner = lesson.bank.runner
    patches = [lesson.patches[i] for i in batch]
    target = torch.stack([lesson.targets[i] for i in batch]).to(runner.device)  # (N, S, S)
    images = None
    if not runner.frozen:
        images = lesson.bank.pixels(patches).to(runner.device)  # (N, 3, S, S)
        images, target = augmentation(recipe.augment)(images, target, generator)

    def maps(part: slice) -> list[Tensor]:
        # [(n, C_i, h_i, w_i), ...]
        return lesson.bank.maps(patches[part]) if images is None else runner(images[part])

    def loss(positions: Sequence[int]) -> Tensor:
        part = slice(positions[0], positions[-1] + 1)
        with runner.autocast():
            return head.training_loss(maps(part), target[part])

    def logits(positions: Sequence[int]) -> Tensor:
        part, (height, width) = slice(positions[0], positions[-1] + 1), target.shape[-2:]
        with runner.autocast():
            return head(maps(part), size=(height, width)).float()  # (n, K, S, S)

    if not _loss_is_of_logits(head):
        return loss, None
    return loss, JointLoss(logits, lambda values: head.loss(values, target))


def _loss_is_of_logits(head: Head) -> bool:
    owner = next(kind for kind in type(head).__mro__ if "training_loss" in vars(kind))
    return bool(vars(owner).get("loss_is_of_logits"))


def _finite(value: float, step: int, epoch: int) -> float:
    if not math.isfinite(value):
        raise RunFailed(
            f"the loss became {value} at step {step + 1} of epoch {epoch + 1}, so there is no "
            "score. Lower the learning rate (`--lr`)."
        )
    return value
