"""A training step: corruption, prediction, gradient, AdamW, and the average of the weights.

Sections 3.3 and 4.1.2 of arXiv 2605.08276. Shapes: N images of this process, S side of the crop,
K channels and h side of the network's input (pixels: 3 and S; latents: 4 and S / 8), D width of the
condition.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.api.seeds import seed_of_numbers
from bench.errors import RunFailed
from bench.pretrain import distributed
from bench.pretrain.batches import AMBIENT, CORRUPTION
from bench.pretrain.job import PretrainJob
from bench.pretrain.objective import draw_times
from bench.pretrain.state import State


class Learner:
    """The network in training, the average of its weights, and the optimiser."""

    def __init__(self, job: PretrainJob) -> None:
        self.job, self.processes = job, job.processes
        network = job.network.train()
        average = copy.deepcopy(network).eval().requires_grad_(False)
        if job.config.recompute:
            distributed.recompute_activations(network)
        if job.config.shard:
            distributed.shard(network)
            distributed.shard(average)
        self.weights = list(network.parameters())
        # Fused AdamW updates all weights in one pass, also on a CPU.
        optimizer = torch.optim.AdamW(self.weights, lr=job.config.lr, weight_decay=0.0, fused=True)
        self.state = State(network, average, optimizer)
        self.wrapped = self._replicated(network)
        self.forward: Callable[..., Tensor] = self.wrapped
        if job.config.compile:
            self.forward = torch.compile(self.wrapped)

    def _replicated(self, network: nn.Module) -> nn.Module:
        """Wrap a network in DDP unless there is one process or the weights are sharded."""
        if self.processes.size == 1 or self.job.config.shard:
            return network
        ids = [torch.cuda.current_device()] if self.job.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def step(self, images: Tensor) -> tuple[float, float]:
        """Compute the gradients of a batch.

        Args:
            images: (N, 3, S, S) uint8.

        Returns:
            The loss and the norm of the gradient, over all processes.

        Raises:
            RunFailed: the device's memory is full.
        """
        config, step = self.job.config, self.state.step
        # For networks with dropout, which use the global generator.
        torch.manual_seed(seed_of_numbers(config.seed, AMBIENT, step, self.processes.rank))
        try:
            loss = self.processes.mean(self._gradients(images))
        except torch.OutOfMemoryError as error:
            raise RunFailed(
                f"the memory of {self.job.device} is full at step {step + 1}. Raise --accumulate "
                f"(now {config.accumulate}), add --recompute, or lower --batch-size."
            ) from error
        norm = torch.nn.utils.get_total_norm(
            [weight.grad for weight in self.weights if weight.grad is not None]
        )
        return float(loss), float(distributed.full_tensor(norm))

    @torch.no_grad()
    def update(self, norm: float) -> None:
        """Apply the gradients, whose norm is `norm`, and update the average of the weights."""
        config, state = self.job.config, self.state
        if config.clip:
            total = torch.tensor(norm, device=self.job.device)
            torch.nn.utils.clip_grads_with_norm_(self.weights, config.clip, total)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        averaged = distributed.local_shards(list(state.average.parameters()))
        current = distributed.local_shards(self.weights)
        torch._foreach_lerp_(averaged, current, 1 - config.ema)  # pyright: ignore
        buffers = zip(state.average.buffers(), state.network.buffers(), strict=True)
        for average, newest in buffers:
            average.copy_(newest)
        state.step += 1

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, t: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Corrupt images, and restore them with the averaged weights.

        Args:
            images: (N, 3, S, S) in [-1, 1].
            t: (N,) int64 time steps.
            generators: N CPU generators.

        Returns:
            The corrupted and the restored images, both (N, 3, S, S) float32 in about [-1, 1].
        """
        objective = self.job.objective
        images, t = images.to(self.job.device), t.to(self.job.device)
        with self._autocast():
            clean = self._encode(images)  # (N, K, h, h)
            corrupted = objective.corrupt(clean, t, generators)  # (N, K, h, h)
            predicted = self._predict(self.state.average, images, corrupted, t)
            restored = objective.restored(predicted.float(), corrupted, t)  # (N, K, h, h)
            return self._decode(corrupted).float(), self._decode(restored).float()

    def _gradients(self, images: Tensor) -> Tensor:
        """Accumulate the gradients of the parts of a batch; return the mean loss."""
        parts = self.job.config.accumulate
        total = torch.zeros((), device=self.job.device)
        chunks = zip(images.chunk(parts), self._generators(), strict=True)
        for number, (chunk, generators) in enumerate(chunks, start=1):
            with distributed.gradient_sync(self.wrapped, number == parts):
                loss = self._loss(chunk, generators) / parts
                loss.backward()
            total += loss.detach()
        return total

    def _generators(self) -> Iterator[list[torch.Generator]]:
        """Yield the generators of each part; a sample has the same one in every run."""
        config = self.job.config
        first = self.state.step * config.batch_size
        part = self.processes.part(config.batch_size)
        samples = range(first, first + config.batch_size)[part]
        seeds = [seed_of_numbers(config.seed, CORRUPTION, sample) for sample in samples]
        size = len(seeds) // config.accumulate
        for start in range(0, len(seeds), size):
            yield [torch.Generator().manual_seed(seed) for seed in seeds[start : start + size]]

    def _loss(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        objective = self.job.objective
        pixels = images.to(self.job.device, non_blocking=True) / 127.5 - 1  # (N, 3, S, S)
        t = draw_times(generators).to(self.job.device)  # (N,)
        with torch.no_grad(), self._autocast():
            clean = self._encode(pixels)  # (N, K, h, h)
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

    def _encode(self, pixels: Tensor) -> Tensor:
        latents = self.job.latents
        return pixels if latents is None else latents.encode(pixels).float()

    def _decode(self, images: Tensor) -> Tensor:
        latents = self.job.latents
        return images if latents is None else latents.decode(images)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        bf16 = self.job.config.precision == "bf16"
        with torch.autocast(self.job.device.type, torch.bfloat16, enabled=bf16):
            yield
