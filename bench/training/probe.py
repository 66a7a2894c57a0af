"""The linear probe, solved to convergence and tuned in the same way for every backbone.

The loss of the margin m = w x + b is that of all heads plus a penalty: cross-entropy + soft Dice +
lambda |w|^2. It is minimised by L-BFGS over a fixed random sample of the training pixels, whose
features are standardised, along a path of decreasing lambda that starts at w = 0. So there is no
learning rate, no number of epochs, and no dependence on the scale of the features.

lambda and the threshold of the probability are chosen together, by the mean Dice of held-out images
in a cross-validation within the training images; no test image is used. Fewer than `FEWEST`
training images use fixed values.

Symbols: n pixels, D channels of all maps, L lambdas, T thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.api import Head, LinearClassifier, Progress
from bench.api.nn import loss_of_margin
from bench.errors import RunFailed
from bench.training.fit import Fitted, TrainingSet
from bench.training.pixel_sample import Block, sampled_blocks

LAMBDAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FOLDS = 3
FEWEST = 10  # training images for a cross-validation
FIXED_LAMBDA, FIXED_THRESHOLD = 1e-2, 0.3  # for fewer images
CURVATURE = 0.25  # largest second derivative of the cross-entropy of a margin
MAX_ITERATIONS = 200
TOLERANCE = 1e-5  # of the largest component of the whitened gradient
CONVERGED = 1e-4  # largest component of the gradient at a minimum


@dataclass(frozen=True)
class Choice:
    """A lambda and a threshold, and the cross-validation that chose them, for the record."""

    penalty: float
    threshold: float
    cross_validation: Mapping[str, Any]


@dataclass(frozen=True)
class Minimum:
    """A minimum of the loss.

    Attributes:
        weight, bias: (D,) and () float64.
        gradient: largest component of the gradient by weight and bias.
        iterations: of L-BFGS, without those at larger lambdas.
    """

    weight: Tensor
    bias: Tensor
    loss: float
    gradient: float
    iterations: int


def fit(head: Head, lesson: TrainingSet, seed: int, progress: Progress) -> Fitted:
    """Solve a `LinearClassifier` in place.

    Args:
        seed: of the sample of pixels.

    Raises:
        RunFailed: the loss is not finite.
    """
    assert isinstance(head, LinearClassifier)
    images = list(dict.fromkeys(image for image, _ in lesson.patches))
    patients = [lesson.bank.samples[image].patient for image in images]
    folds = folds_of(patients) if len(images) >= FEWEST else [0] * len(images)
    blocks, mean, deviation = sampled_blocks(lesson, dict(zip(images, folds, strict=True)), seed)
    choice = Choice(FIXED_LAMBDA, FIXED_THRESHOLD, {})
    if len(blocks) > 1:
        choice = cross_validate(blocks, progress)
    path = [penalty for penalty in LAMBDAS if penalty >= choice.penalty]
    minimum = solve(blocks, path, progress)[-1]
    head.set_solution(mean, deviation, minimum.weight, minimum.bias, choice.threshold)
    training = {
        "lambda": choice.penalty,
        "threshold": choice.threshold,
        **choice.cross_validation,
        "iterations": minimum.iterations,
        "gradient": minimum.gradient,
        "converged": minimum.gradient <= CONVERGED,
        "pixels": sum(len(block.target) for block in blocks),
    }
    return Fitted(minimum.loss, training)


def folds_of(patients: Sequence[str]) -> list[int]:
    """Return the fold of each image; the images of a patient share one if there are enough."""
    groups = list(patients)
    if len(set(groups)) < FOLDS:
        groups = [str(number) for number in range(len(groups))]
    sizes, fold_of = [0] * FOLDS, {}
    for group, count in Counter(groups).most_common():
        fold_of[group] = sizes.index(min(sizes))
        sizes[fold_of[group]] += count
    return [fold_of[group] for group in groups]


def cross_validate(blocks: Sequence[Block], progress: Progress) -> Choice:
    """Choose lambda and the threshold by the mean Dice of the images of the held-out blocks."""
    grams = [_gram(block) for block in blocks]
    dice: list[np.ndarray] = []  # (L, T) per image
    for fold, held_out in enumerate(blocks):
        others = [i for i in range(len(blocks)) if i != fold]
        minima = solve([blocks[i] for i in others], LAMBDAS, progress, [grams[i] for i in others])
        margins = torch.stack(
            [held_out.margin(each.weight.float()) + each.bias.float() for each in minima]
        )  # (L, n)
        targets = held_out.target.split(list(held_out.sizes))
        for margin, target in zip(margins.split(list(held_out.sizes), 1), targets, strict=True):
            dice.append(dice_of_thresholds(margin, target))
    curve = np.mean(dice, axis=0)  # (L, T)
    i, j = np.unravel_index(int(curve.argmax()), curve.shape)
    details = {
        "at_edge": bool(i in (0, len(LAMBDAS) - 1) or j in (0, len(THRESHOLDS) - 1)),
        "folds": len(blocks),
        "cv_lambdas": list(LAMBDAS),
        "cv_thresholds": list(THRESHOLDS),
        "cv_dice": [[round(float(value), 5) for value in row] for row in curve],
    }
    return Choice(LAMBDAS[i], THRESHOLDS[j], details)


def dice_of_thresholds(margins: Tensor, target: Tensor) -> np.ndarray:
    """Return the Dice of an image at all thresholds, (L, T), of margins (L, n)."""
    thresholds = torch.tensor(THRESHOLDS, device=margins.device).logit()
    predicted = margins[:, None] > thresholds[:, None]  # (L, T, n)
    overlap = (predicted * target).sum(2)
    total = predicted.sum(2) + target.sum()
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0).cpu().numpy()


def _gram(block: Block) -> Tensor:
    features = block.features
    return (features.T @ features).double()  # (D, D)


def solve(
    blocks: Sequence[Block],
    lambdas: Sequence[float],
    progress: Progress,
    grams: Sequence[Tensor] | None = None,
) -> list[Minimum]:
    """Minimise the loss over all pixels of some blocks, for decreasing lambdas.

    L-BFGS runs in whitened coordinates u, w = C^-T u, where C C^T bounds the curvature of the
    cross-entropy and the penalty: correlated channels then cost no iterations.

    Args:
        grams: X^T X of each block, (D, D) float64, if they are already known.

    Raises:
        RunFailed: the loss or a feature is not finite.
    """
    target = torch.cat([block.target for block in blocks])
    gram = torch.stack(list(grams or map(_gram, blocks))).sum(0) / len(target)
    channels, device = len(gram), target.device
    if not torch.isfinite(gram).all():
        raise RunFailed("the features of a training image are not finite, so there is no score.")
    identity = torch.eye(channels, dtype=torch.float64, device=device)
    weight = torch.zeros(channels, dtype=torch.float64, device=device)
    bias = torch.zeros((), dtype=torch.float64, device=device)
    minima: list[Minimum] = []
    for done, penalty in enumerate(lambdas):
        progress("solving", done, len(lambdas))
        factor = torch.linalg.cholesky(CURVATURE * gram + 2 * penalty * identity)  # C
        whiten = torch.linalg.solve_triangular(factor.T, identity, upper=True)  # C^-T

        def loss(u: Tensor, b: Tensor, whiten: Tensor = whiten, penalty: float = penalty) -> Tensor:
            w = whiten @ u
            single = w.float()
            margin = torch.cat([block.margin(single) for block in blocks]).double() + b  # (n,)
            return loss_of_margin(margin[None], target[None]) + penalty * w.square().sum()

        u, b, iterations = _minimise(loss, factor.T @ weight, bias)
        value = loss(u, b)
        by_u, by_b = torch.autograd.grad(value, (u, b))
        gradient = torch.cat([factor @ by_u, by_b[None]]).abs().max()
        if not torch.isfinite(value + gradient):
            raise RunFailed("the loss of the linear probe is not finite, so there is no score.")
        weight, bias = (whiten @ u).detach(), b.detach()
        minima.append(Minimum(weight, bias, value.item(), gradient.item(), iterations))
    progress("solving", len(lambdas), len(lambdas))
    return minima


def _minimise(
    loss: Callable[[Tensor, Tensor], Tensor], u: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Run L-BFGS from u (D,) and b (); return the minimum and the number of iterations."""
    u, b = u.clone().requires_grad_(), b.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [u, b],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimiser.zero_grad()
        value = loss(u, b)
        value.backward()
        return value.item()

    optimiser.step(closure)
    return u, b, optimiser.state[u]["n_iter"]
