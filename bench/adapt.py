"""Test-time training: an extractor goes on learning on each image that is scored, without labels.

As in Sun et al., ICML 2020 (arXiv 1909.13231) and, with masked images, Gandelsman et al., NeurIPS
2022 (arXiv 2209.07522); the CMD paper (arXiv 2605.08276, appendix C) gives no recipe. The head
stays as it was trained, and the extractor's weights come back after each image.

Letters: P patches of an image, V views a step, S side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from bench.errors import BenchError, RunFailed
from bench.interface import FeatureExtractor, SelfTaught
from bench.options import CONVERTERS
from bench.runner import Runner


@dataclass(frozen=True)
class Adaptation:
    """How an extractor is adapted to an image.

    Attributes:
        steps: of Adam, on each image.
        views: masked copies of the image in a step.
        lr: learning rate; the default is that of the paper's pretraining.
        part: what of the extractor learns, by its own word; for CMD "adaln", "decoder" or "all".
        online: keep what was learnt for the next image, in the order of the test images, instead of
            starting each from the trained weights.
    """

    steps: int = 20
    views: int = 8
    lr: float = 3e-5
    part: str = "adaln"
    online: bool = False


def parse_adaptation(pairs: Mapping[str, str]) -> Adaptation:
    """Read the settings of test-time training from text.

    Raises:
        BenchError: an unknown setting, or a value out of range.
    """
    kinds = {field.name: str(field.type) for field in fields(Adaptation)}
    values = {}
    for name, text in pairs.items():
        if name not in kinds:
            raise BenchError(f"--ttt-option has no {name!r}; it takes {', '.join(kinds)}.")
        try:
            values[name] = CONVERTERS[kinds[name]](text)
        except (ValueError, KeyError) as error:
            kind = kinds[name]
            raise BenchError(f"--ttt-option {name}={text!r} is not of type {kind}.") from error
    settings = Adaptation(**values)
    if settings.steps < 1 or settings.views < 1 or not 0 < settings.lr < math.inf:
        raise BenchError("--ttt-option: steps, views and lr are positive numbers.")
    return settings


def check_adaptable(extractor: FeatureExtractor, settings: Adaptation, name: str) -> None:
    """Refuse an extractor that cannot be adapted at test time.

    Raises:
        BenchError: it has no self-supervised loss, trains with its head, or has no such part.
    """
    if not isinstance(extractor, SelfTaught):
        raise BenchError(
            f"{name} cannot learn from an image without labels: --ttt is for CMD backbones."
        )
    if any(parameter.requires_grad for parameter in extractor.parameters()):
        raise BenchError(f"{name} trains with its head: --ttt is for frozen backbones.")
    extractor.part(settings.part)


def adapt(runner: Runner, patches: Tensor, how: Adaptation, generator: torch.Generator) -> None:
    """Teach the extractor an image, in place.

    Args:
        patches: (P, 3, S, S) RGB in [0, 1], all of the image.
        generator: of the CPU; draws the views.

    Raises:
        RunFailed: the loss is not finite.
    """
    extractor = runner.extractor
    assert isinstance(extractor, SelfTaught)
    weights = extractor.part(how.part)
    optimiser = torch.optim.Adam(weights, lr=how.lr)
    patches = patches.to(runner.device)
    with _learning(weights), torch.enable_grad():
        for step in range(how.steps):
            chosen = torch.randint(len(patches), (how.views,), generator=generator)  # (V,)
            with runner.autocast():
                loss = extractor.own_loss(patches[chosen.to(runner.device)], generator)
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
    """Give weights back the values that they had, also after an error."""
    before = [each.detach().clone() for each in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, value in zip(weights, before, strict=True):
                each.copy_(value)


@contextmanager
def _learning(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let frozen weights take gradients for a while."""
    for each in weights:
        each.requires_grad_(True)
    try:
        yield
    finally:
        for each in weights:
            each.requires_grad_(False)
            each.grad = None
