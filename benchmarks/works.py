"""What is timed: a large matrix product, and what `bench run` and `bench pretrain` do to images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, FeatureExtractor
from bench.api.run_config import PRECISIONS
from bench.errors import BenchError
from bench.models.load import open_backbone
from bench.pretrain import flops as pretrain_flops
from bench.pretrain.objective import Masked, draw_times
from bench.runs.resolve import device_named

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
EMA = 0.9999


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        px: side of the images.
        compile: measure what `torch.compile` makes of it too.
        repeats: timings of each.
        seconds: how long one timing takes at least.
    """

    backbone: str
    device: str
    precision: str
    px: int
    batch_size: int
    compile: bool
    repeats: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """Something that is timed.

    Attributes:
        run: does it once.
        images: how many it takes.
        flops: what it computes, in all.
    """

    name: str
    run: Callable[[], object]
    images: int
    flops: float


class Machine:
    """A device and a precision, and the works that are timed in them."""

    def __init__(self, asked: Asked) -> None:
        """Raise a BenchError where there is no such device or precision."""
        if asked.precision not in PRECISIONS:
            raise BenchError(f"{asked.precision!r} is not one of {', '.join(PRECISIONS)}.")
        self.asked = asked
        self.device = device_named(asked.device)
        self.dtype = torch.bfloat16 if asked.precision == "bf16" else torch.float32
        self.notes: list[str] = []

    def works(self) -> Iterator[Work]:
        """Give the matrix product, and whatever the backbone can do."""
        yield self._matmul()
        backbone: Backbone = registry.get("backbones", self.asked.backbone)
        if backbone.network is None:
            self.notes.append(f"{backbone.name} has no network to train: only features are timed.")
        else:
            yield from self._training(backbone.network(cond_dim=None))
        yield from self._features(open_backbone(backbone.name, random=True).extractor)

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self) -> torch.autocast:
        """Give the context in which a network runs in this precision."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _matmul(self) -> Work:
        side = MATMUL_SIDE[self.device.type]
        left, right = torch.randn(2, side, side, device=self.device).to(self.dtype)
        return Work("matrix product", lambda: left @ right, 0, 2 * side**3)

    def _images(self) -> Tensor:
        """Make (N, 3, S, S) in [-1, 1]."""
        images = torch.rand(self.asked.batch_size, 3, self.asked.px, self.asked.px) * 2 - 1
        return images.to(self.device)

    def _forms(self, module: nn.Module) -> Iterator[tuple[str, Callable[..., Tensor]]]:
        yield "", module
        if self.asked.compile:
            yield ", compiled", torch.compile(module)

    def _training(self, network: nn.Module) -> Iterator[Work]:
        images, count, px = self._images(), self.asked.batch_size, self.asked.px
        cost = pretrain_flops.forward_flops(network, (3, px, px)) * count
        network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore
        t = torch.full((count,), 500, device=self.device)  # (N,)

        def predict(forward: Callable[..., object]) -> None:
            with torch.inference_mode(), self.autocast():
                forward(images.contiguous(memory_format=torch.channels_last), t, None)

        lesson = TrainingSet(self, network, images)
        for form, forward in self._forms(network):
            yield Work(f"forward{form}", partial(predict, forward), count, cost)
        for form, forward in self._forms(network):
            step = partial(lesson.step, forward)
            yield Work(f"training step{form}", step, count, pretrain_flops.STEP * cost)

    def _features(self, extractor: FeatureExtractor) -> Iterator[Work]:
        images, count, px = (self._images() + 1) / 2, self.asked.batch_size, self.asked.px
        empty = torch.empty(1, 3, px, px, device="meta")
        cost = pretrain_flops.count_flops(extractor, lambda own: own(empty)) * count
        extractor.to(self.device)

        def read(forward: Callable[..., object]) -> None:
            with torch.inference_mode(), self.autocast():
                forward(images)

        for form, forward in self._forms(extractor):
            yield Work(f"features{form}", partial(read, forward), count, cost)


class TrainingSet:
    """A training that makes its step again and again on the same images, as the trainer does."""

    def __init__(self, machine: Machine, network: nn.Module, images: Tensor) -> None:
        self.machine, self.images = machine, images
        self.weights = list(network.parameters())
        self.average = [copy.deepcopy(each).detach() for each in self.weights]
        self.optimizer = torch.optim.AdamW(self.weights, lr=3e-5, weight_decay=0.0, fused=True)
        self.objective = Masked()
        self.generators = [torch.Generator().manual_seed(each) for each in range(len(images))]

    def step(self, forward: Callable[..., Tensor]) -> None:
        """Corrupt, predict, compare, go back, take the norm, update weights and their average."""
        t = draw_times(self.generators)  # (N,)
        masked = self.objective.corrupt(self.images, t, self.generators)  # (N, 3, S, S)
        masked = masked.contiguous(memory_format=torch.channels_last)
        with self.machine.autocast():
            prediction = forward(masked, t.to(self.machine.device), None)  # (N, 3, S, S)
        loss = self.objective.loss(prediction, self.images, masked, t)
        loss.backward()
        gradients = [each.grad for each in self.weights if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):  # the trainer looks
            raise BenchError("the loss or its gradient is not finite on these random images.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1 - EMA)  # pyright: ignore
