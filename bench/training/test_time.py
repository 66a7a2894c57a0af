"""Test-time training: adapt the extractor to each test image with a self-supervised loss.

Sun et al., ICML 2020 (arXiv 1909.13231) and, with masked images, Gandelsman et al., NeurIPS 2022
(arXiv 2209.07522); the CMD paper (arXiv 2605.08276, appendix C) gives no recipe. The head does not
change, and the extractor's weights are restored after each image.

Shapes: P patches of an image, V views per step, S side of a patch in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.api.experiment import Adaptation
from bench.api.nn import FeatureExtractor, SelfSupervised
from bench.errors import BenchError, RunFailed
from bench.features.forward import ExtractorRunner


def check_adaptable(extractor: FeatureExtractor, settings: Adaptation, name: str) -> None:
    """Check that an extractor supports test-time training.

    Raises:
        BenchError: it has no self-supervised loss, trains with its head, or has no such part.
    """
    if not isinstance(extractor, SelfSupervised):
        raise BenchError(
            f"{name} cannot learn from an image without labels: --ttt is for CMD backbones."
        )
    if any(parameter.requires_grad for parameter in extractor.parameters()):
        raise BenchError(f"{name} trains with its head: --ttt is for frozen backbones.")
    extractor.parameter_group(settings.part)


def adapt(
    runner: ExtractorRunner, patches: Tensor, how: Adaptation, generator: torch.Generator
) -> None:
    """Train the extractor on one image, in place.

    Args:
        patches: (P, 3, S, S) RGB in [0, 1], all patches of the image.
        generator: CPU generator of the views.

    Raises:
        RunFailed: the loss is not finite.
    """
    extractor = runner.extractor
    assert isinstance(extractor, SelfSupervised)
    weights = extractor.parameter_group(how.part)
    optimiser = torch.optim.Adam(weights, lr=how.lr)
    patches = patches.to(runner.device)
    with _trainable(weights), torch.enable_grad():
        for step in range(how.steps):
            chosen = torch.randint(len(patches), (how.views,), generator=generator)  # (V,)
            with runner.autocast():
                loss = extractor.self_supervised_loss(patches[chosen.to(runner.device)], generator)
            if not math.isfinite(float(loss.detach())):
                raise RunFailed(
                    f"the loss of test-time training became {float(loss.detach())} at step "
                    f"{step + 1}; lower its rate (`--ttt-option lr=...`)."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()


@contextmanager
def restored(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Restore the values of weights on exit, also after an error."""
    values = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)


@contextmanager
def _trainable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Enable gradients of frozen weights within the context."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None
