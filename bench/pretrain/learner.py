"""One step: corruption, prediction, gradient, AdamW, and the average of the weights.

Sections 3.3 and 4.1.2 of arXiv 2605.08276. Letters: N images of this process, S side of the crop,
K channels and h sides of what the network sees (pixels: 3 and S; latents: 4 and S / 8), D width of
the condition.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import RunFailed
from bench.pretrain import checkpoint, distributed
from bench.pretrain.batches import AMBIENT, CORRUPTION, seed_of
from bench.pretrain.job import Job
from bench.pretrain.objective import draw_times


class Learner:
    """A network that learns, its average and its optimiser."""

    def __init__(self, job: Job) -> None:
        """Begin with the weights of the job's network."""
        self.job, self.world = job, job.world
        network = job.network.train()
        average = copy.deepcopy(network).eval().requires_grad_(False)
        if job.routine.recompute:
            distributed.recompute_activations(network)
        if job.routine.shard:
            distributed.shard(network)
            distributed.shard(average)
        self.weights = list(network.parameters())
        # Fused AdamW updates all weights in one pass, on a CPU too.
        optimizer = torch.optim.AdamW(
            self.weights, lr=job.settings.lr, weight_decay=0.0, fused=True
        )
        self.state = checkpoint.State(network, average, optimizer)
        self.wrapped = self._copied(network)
        self.forward: Callable[..., Tensor] = (
            torch.compile(self.wrapped) if job.routine.compile else self.wrapped
        )

    def _copied(self, network: nn.Module) -> nn.Module:
        """Wrap a network that several processes have a copy of, so that gradients are averaged."""
        if self.world.size == 1 or self.job.routine.shard:
            return network
        ids = [torch.cuda.current_device()] if self.job.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def step(self, images: Tensor) -> tuple[float, float]:
        """Learn from (N, 3, S, S) uint8; give the loss and the gradient's norm, of all processes.

        Raises:
            RunFailed: the device's memory is full.
        """
        settings, step = self.job.settings, self.state.step
        # For a network with dropout: ambient, yet a function of the step.
        torch.manual_seed(seed_of(settings.seed, AMBIENT, step, self.world.rank))
        try:
            loss = self.world.mean(self._gradients(images))
        except torch.OutOfMemoryError as error:
            raise RunFailed(
                f"the memory of {self.job.device} is full at step {step + 1}. Raise --accumulate "
                f"(now {settings.accumulate}), add --recompute, or lower --batch-size."
            ) from error
        norm = torch.nn.utils.get_total_norm(
            [each.grad for each in self.weights if each.grad is not None]
        )
        return float(loss), float(distributed.whole(norm))

    @torch.no_grad()
    def update(self, norm: float) -> None:
        """Take the step of the gradients that are there, of that norm, and average the weights."""
        settings, state = self.job.settings, self.state
        if settings.clip:
            total = torch.tensor(norm, device=self.job.device)
            torch.nn.utils.clip_grads_with_norm_(self.weights, settings.clip, total)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        averaged = distributed.local(list(state.average.parameters()))
        current = distributed.local(self.weights)
        torch._foreach_lerp_(averaged, current, 1 - settings.ema)  # pyright: ignore
        buffers = zip(state.average.buffers(), state.network.buffers(), strict=True)
        for kept, newest in buffers:
            kept.copy_(newest)
        state.step += 1

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, t: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Corrupt images and restore them by the averaged weights, as pixels in [-1, 1].

        Args:
            images: (N, 3, S, S) in [-1, 1].

        Returns:
            The corrupted and the restored images, each (N, 3, S, S) float32.
        """
        objective = self.job.objective
        images, t = images.to(self.job.device), t.to(self.job.device)
        with self._autocast():
            clean = self._encoded(images)  # (N, K, h, h)
            corrupted = objective.corrupt(clean, t, generators)  # (N, K, h, h)
            predicted = self._predict(self.state.average, images, corrupted, t)
            restored = objective.restored(predicted.float(), corrupted, t)  # (N, K, h, h)
            seen = [self._decoded(each).float() for each in (corrupted, restored)]
        return seen[0], seen[1]

    def _gradients(self, images: Tensor) -> Tensor:
        """Add up the gradients of the parts of a batch; give the mean loss."""
        parts = self.job.settings.accumulate
        total = torch.zeros((), device=self.job.device)
        pieces = zip(images.chunk(parts), self._generators(), strict=True)
        for number, (piece, generators) in enumerate(pieces, start=1):
            with distributed.gradients_exchanged(self.wrapped, number == parts):
                loss = self._loss(piece, generators) / parts
                loss.backward()
            total += loss.detach()
        return total

    def _generators(self) -> Iterator[list[torch.Generator]]:
        """Yield the generators of the images of each part: an image has its own in every run."""
        settings = self.job.settings
        first = self.state.step * settings.batch_size
        mine = range(first, first + settings.batch_size)[self.world.part(settings.batch_size)]
        seeds = [seed_of(settings.seed, CORRUPTION, sample) for sample in mine]
        each = len(seeds) // settings.accumulate
        for start in range(0, len(seeds), each):
            yield [torch.Generator().manual_seed(seed) for seed in seeds[start : start + each]]

    def _loss(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        objective = self.job.objective
        pixels = images.to(self.job.device, non_blocking=True) / 127.5 - 1  # (N, 3, S, S)
        t = draw_times(generators).to(self.job.device)  # (N,)
        with torch.no_grad(), self._autocast():
            clean = self._encoded(pixels)  # (N, K, h, h)
        corrupted = objective.corrupt(clean, t, generators)  # (N, K, h, h)
        with self._autocast():
            prediction = self._predict(self.forward, pixels, corrupted, t)
        return objective.loss(prediction, clean, corrupted, t)

    def _predict(
        self, network: Callable[..., Tensor], pixels: Tensor, corrupted: Tensor, t: Tensor
    ) -> Tensor:
        """Predict (N, K, h, h) from the corrupted images and the condition of the clean pixels."""
        conditioner = self.job.conditioner
        condition = None if conditioner is None else conditioner((pixels + 1) / 2)  # (N, D)
        return network(corrupted.contiguous(memory_format=torch.channels_last), t, condition)

    def _encoded(self, pixels: Tensor) -> Tensor:
        latents = self.job.latents
        return pixels if latents is None else latents.encode(pixels).float()

    def _decoded(self, seen: Tensor) -> Tensor:
        latents = self.job.latents
        return seen if latents is None else latents.decode(seen)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        bf16 = self.job.settings.precision == "bf16"
        with torch.autocast(self.job.device.type, torch.bfloat16, enabled=bf16):
            yield
