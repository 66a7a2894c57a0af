"""The loop: a batch, its corruption, a step of AdamW, the average of the weights.

Sections 3.3 and 4.1.2 of arXiv 2605.08276. Letters: N images of a batch, S side of the crop, D
width of the condition.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench.api import Progress
from bench.errors import BenchError, RunFailed
from bench.memory import keep_freed_memory
from bench.pretrain import checkpoint, pictures, validate
from bench.pretrain.batches import CORRUPTION, Batch, Batches, refusals_allowed, seed_of
from bench.pretrain.corruption import corrupt, draw_times
from bench.pretrain.job import CHECKPOINTS, Job
from bench.pretrain.objective import reconstruction_loss
from bench.pretrain.validate import Scores
from bench.pretrain.watch import Log, Row

PICTURED = 4  # tiles in a picture


@dataclass(frozen=True)
class Outcome:
    """Where a training stands when it returns.

    Attributes:
        step: how many steps are done.
        finished: False where it was asked to stop.
        loss: mean of the last 100 steps; None where there are none.
        scores: the newest validation; None without held-out tiles.
        refused: the tiles that could not be used, with the reason.
        network: with the averaged weights.
    """

    step: int
    finished: bool
    loss: float | None
    scores: Scores | None
    refused: dict[str, str]
    network: torch.nn.Module


def train(job: Job, progress: Progress, stop: Callable[[], object] = lambda: None) -> Outcome:
    """Train to the last step, from the newest checkpoint of the folder if it has one.

    Args:
        stop: asked after each step; where it gives something true a checkpoint is written and the
            training returns.

    Raises:
        BenchError: the newest checkpoint is of another run, or too many images cannot be used.
        RunFailed: the loss or the gradient is not finite, or the device's memory is full.
    """
    keep_freed_memory()
    cuda = [job.device] if job.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return Trainer(job).run(progress, stop)


class Trainer:
    """A training under way."""

    def __init__(self, job: Job) -> None:
        """Begin, or take up the newest checkpoint."""
        self.job = job
        network = job.network.train()
        self.weights = list(network.parameters())
        # Fused AdamW updates all weights in one pass, on a CPU too.
        optimizer = torch.optim.AdamW(
            self.weights, lr=job.settings.lr, weight_decay=0.0, fused=True
        )
        average = copy.deepcopy(network).eval().requires_grad_(False)
        self.state = checkpoint.State(network, average, optimizer)
        newest = checkpoint.all_of(job.out / CHECKPOINTS)[-1:]
        for path in newest:
            checkpoint.restore(path, self.state, job.identity)
        self._refuse_fewer_steps()
        self.forward = torch.compile(network) if job.routine.compile else network
        self.log = Log(job.out, self.state.step)
        self.crops = validate.crops_of(job.held_out, job.settings.crop_px, self.state.refused)
        self.clock = _Clock(job.settings.batch_size)

    def run(self, progress: Progress, stop: Callable[[], object]) -> Outcome:
        """Train until the last step or until `stop`."""
        steps, stopped = self.job.routine.steps, False
        for batch in self._batches():
            loss, norm = self._step(batch)
            rate = self.clock.tick()
            stopped = bool(stop())
            self._after_step(Row(self.state.step, loss, norm, rate), stopped)
            told = f"pretrain: loss {self.log.loss(20):.4f}, {rate:.1f} images/s"
            progress(told, self.state.step, steps)
            if stopped:
                break
        return self._outcome()

    def _outcome(self) -> Outcome:
        state = self.state
        loss = self.log.loss() if self.log.rows else None
        finished = state.step == self.job.routine.steps
        return Outcome(state.step, finished, loss, self.log.scores(), state.refused, state.average)

    def _batches(self) -> DataLoader[Batch]:
        job = self.job
        settings = job.settings
        return DataLoader(
            Batches(job.tiles, settings.batch_size, settings.crop_px, settings.seed),
            sampler=range(self.state.step, job.routine.steps),
            batch_size=None,
            num_workers=job.routine.workers,
            pin_memory=job.device.type == "cuda",
            generator=torch.Generator(),
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def _step(self, batch: Batch) -> tuple[float, float]:
        """Learn from a batch; give the loss and the norm of its gradient."""
        self._note_refused(batch)
        settings, step = self.job.settings, self.state.step
        seed = seed_of(settings.seed, CORRUPTION, step)
        torch.manual_seed(seed)  # for a network with dropout: ambient, yet a function of the step
        generator = torch.Generator().manual_seed(seed)
        clean = batch.images.to(self.job.device, non_blocking=True) / 127.5 - 1  # (N, 3, S, S)
        t = draw_times(len(clean), generator)  # (N,)
        masked = corrupt(clean, t, settings.schedule, generator)  # (N, 3, S, S)
        try:
            loss = self._gradients(clean, masked, t)
        except torch.OutOfMemoryError as error:
            raise RunFailed(
                f"the memory of {self.job.device} is full at step {step + 1}. Raise --accumulate "
                f"(now {settings.accumulate}) or lower --batch-size."
            ) from error
        norm = torch.nn.utils.get_total_norm(
            [each.grad for each in self.weights if each.grad is not None]
        )
        self._refuse_if_not_finite(float(loss), float(norm))
        if settings.clip:
            torch.nn.utils.clip_grads_with_norm_(self.weights, settings.clip, norm)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self._average()
        self.state.step += 1
        return float(loss), float(norm)

    def _gradients(self, clean: Tensor, masked: Tensor, t: Tensor) -> Tensor:
        """Add up the gradients of the parts of a batch; give the mean loss."""
        parts = self.job.settings.accumulate
        total = torch.zeros((), device=clean.device)
        pieces = (each.chunk(parts) for each in (clean, masked, t))
        for clean_part, masked_part, t_part in zip(*pieces, strict=True):
            prediction = self._predict(self.forward, clean_part, masked_part, t_part)
            weight = self.job.settings.ssim_weight
            loss = reconstruction_loss(prediction, clean_part, weight) / parts
            loss.backward()
            total += loss.detach()
        return total

    def _predict(
        self, network: Callable[..., Tensor], clean: Tensor, masked: Tensor, t: Tensor
    ) -> Tensor:
        """Predict (N, 3, S, S) from the masked images and the condition of the clean ones."""
        device, conditioner = self.job.device, self.job.conditioner
        bf16 = self.job.settings.precision == "bf16"
        clean, masked, t = clean.to(device), masked.to(device), t.to(device)
        masked = masked.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            condition = None if conditioner is None else conditioner((clean + 1) / 2)  # (N, D)
            return network(masked, t, condition)

    @torch.no_grad()
    def _average(self) -> None:
        state = self.state
        averaged = list(state.average.parameters())
        share = 1 - self.job.settings.ema
        torch._foreach_lerp_(averaged, self.weights, share)  # pyright: ignore
        buffers = zip(state.average.buffers(), state.network.buffers(), strict=True)
        for kept, current in buffers:
            kept.copy_(current)

    def _after_step(self, row: Row, stopped: bool) -> None:
        """Validate, draw, note and save, each when it is due."""
        job, routine = self.job, self.job.routine
        last = row.step == routine.steps
        to_score = bool(self.crops) and (last or row.step % routine.validate_every == 0)
        to_draw = bool(self.crops) and (last or row.step % routine.picture_every == 0)
        if to_score or to_draw:
            seen = self._views(self.crops if to_score else self.crops[:PICTURED])
            if to_score:
                row = _with_scores(row, validate.score(seen))
            if to_draw:
                pictured = [view for view in seen if view.tile < PICTURED]
                pictures.draw(job.out / "pictures" / f"step-{row.step:08d}.png", pictured)
        self.log.add(row)
        if last or stopped or row.step % routine.save_every == 0:
            self.log.flush()
            checkpoint.save(job.out / CHECKPOINTS, self.state, job.identity, routine.keep)

    def _views(self, crops: list[Tensor]) -> list[validate.View]:
        settings = self.job.settings
        average = self.state.average

        def predict(clean: Tensor, masked: Tensor, t: Tensor) -> Tensor:
            return self._predict(average, clean, masked, t)

        return list(validate.views(crops, settings.schedule, predict, settings.seed))

    def _note_refused(self, batch: Batch) -> None:
        refused, tiles = self.state.refused, len(self.job.tiles)
        refused.update(batch.refused)
        if len(refused) <= refusals_allowed(tiles):
            return
        shown = "\n".join(f"- {reason}" for reason in list(refused.values())[:5])
        raise BenchError(
            f"{len(refused)} of {tiles} images cannot be used, and {refusals_allowed(tiles)} are "
            f"allowed. Mend or remove them. The first:\n{shown}"
        )

    def _refuse_if_not_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = checkpoint.all_of(self.job.out / CHECKPOINTS)
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise RunFailed(
            f"at step {self.state.step + 1} the loss is {loss} and the norm of the gradient {norm};"
            f" {good}. The same command would fail there again: lower --lr or set --clip 1, with "
            "another --out."
        )

    def _refuse_fewer_steps(self) -> None:
        done, asked = self.state.step, self.job.routine.steps
        if done > asked:
            raise BenchError(
                f"{self.job.out} was trained for {done} steps already, more than --steps {asked}. "
                "Give more steps, or another --out."
            )


def _with_scores(row: Row, scores: Scores) -> Row:
    return Row(
        row.step,
        row.loss,
        row.gradient_norm,
        row.images_per_s,
        scores.l1,
        scores.psnr,
        scores.ssim,
    )


def _leave_signals_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: a terminal sends them to the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Clock:
    """Measure the speed over the last steps."""

    def __init__(self, images: int, over: int = 20) -> None:
        self.images, self.over = images, over
        self.times = [time.perf_counter()]

    def tick(self) -> float:
        """Give images per second, a step being over."""
        self.times = [*self.times[-self.over :], time.perf_counter()]
        return self.images * (len(self.times) - 1) / (self.times[-1] - self.times[0])
