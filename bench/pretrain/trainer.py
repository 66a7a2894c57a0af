"""The training loop, with validation, probes, the log, pictures and checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench.api import Progress
from bench.errors import BenchError, RunFailed
from bench.models import checkpoints as models_checkpoints
from bench.pretrain import checkpoint, flops, samples, sharded, trackers, validate
from bench.pretrain.batches import Batch, Batches, refusals_allowed
from bench.pretrain.job import CHECKPOINTS, PretrainJob
from bench.pretrain.log import Log, LogRow
from bench.pretrain.state import CheckpointFormat
from bench.pretrain.step import Learner
from bench.pretrain.validate import Scores
from bench.training.malloc import keep_freed_memory

PICTURED = 4  # tiles per picture
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a training.

    Attributes:
        begun, step: number of finished steps before and after.
        finished: whether the last step was reached.
        loss: mean over the last 100 steps; None without steps.
        scores: the newest validation; None without held-out tiles.
        probe_dice: Dice coefficient of the newest linear probe; None without one.
        refused: unusable tiles, with the reason.
        tuned: values of `lr` and `clip`, each with "after", the number of steps before.
        weights: the averaged weights, on the CPU; empty except in the main process.
    """

    begun: int
    step: int
    finished: bool
    loss: float | None
    scores: Scores | None
    probe_dice: float | None
    refused: dict[str, str]
    tuned: list[dict[str, object]]
    weights: Mapping[str, Tensor]


def train(
    job: PretrainJob, progress: Progress, stop: Callable[[], object] = lambda: None
) -> TrainingOutcome:
    """Train to the last step, starting from the newest checkpoint of the folder if there is one.

    Args:
        stop: called after each step; if it returns a true value, a checkpoint is written and the
            training returns.

    Raises:
        BenchError: the newest checkpoint has other settings, or too many images are unusable.
        RunFailed: the loss or the gradient is not finite, or the device's memory is full.
    """
    keep_freed_memory()
    cuda = [job.device] if job.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return Trainer(job).run(progress, stop)


class Trainer:
    """A training, with its state and its log."""

    def __init__(self, job: PretrainJob) -> None:
        """Start a training, or resume it from the newest checkpoint."""
        self.job = job
        self.clock = _Clock(job)  # before DDP or FSDP change the network
        self.learner = Learner(job)
        self.state = self.learner.state
        self.format = CheckpointFormat(job.identity, job.config.keep, job.config.shard)
        checkpoints = models_checkpoints.all_of(job.config.out / CHECKPOINTS)
        if checkpoints:
            log.debug("resumes from %s", checkpoints[-1])
            checkpoint.restore(checkpoints[-1], self.state, self.format)
        self.begun, steps = self.state.step, job.config.steps
        if self.begun > steps:
            raise BenchError(
                f"{job.config.out} was trained for {self.begun} steps already, more than --steps "
                f"{steps}. Use more steps, or another --out."
            )
        if self.begun < steps:
            self.state.tune(job.tuned)
        self.crops = validate.crops_of(job.held_out, job.config.side, self.state.refused)
        tracker = None
        if job.config.track and job.processes.is_main and self.begun < steps:
            tracker = trackers.start(job.config.track, job.config.out, job.tracked_config())
        self.log = Log(job.config.out, self.begun, job.processes.is_main, tracker)

    def run(self, progress: Progress, stop: Callable[[], object]) -> TrainingOutcome:
        """Train until the last step, or until `stop` returns a true value."""
        with closing(self.log):
            for batch in self._batches():
                self._share_refused(dict(batch.refused))
                loss, norm = self.learner.step(batch.images)
                self._check_finite(loss, norm)
                self.learner.update(norm)
                images_per_s, mfu = self.clock.tick()
                # All processes stop if one of them received a signal.
                stopped = bool(self.job.processes.sum([bool(stop())]).item())
                row = LogRow(self.state.step, loss, norm, images_per_s, mfu=mfu)
                self._after_step(row, stopped, progress)
                status = f"pretrain: loss {self.log.loss(20):.4f}, {images_per_s:.1f} images/s"
                if mfu is not None:
                    status += f", MFU {mfu:.0%}"
                progress(status, self.state.step, self.job.config.steps)
                if stopped:
                    break
            return self._outcome()

    def _outcome(self) -> TrainingOutcome:
        state = self.state
        return TrainingOutcome(
            begun=self.begun,
            step=state.step,
            finished=state.step == self.job.config.steps,
            loss=self.log.loss() if self.log.rows else None,
            scores=self.log.scores(),
            probe_dice=self.log.probe_dice(),
            refused=state.refused,
            tuned=state.tuned,
            weights=sharded.full_state_dict(state.average),
        )

    def _batches(self) -> DataLoader[Batch]:
        job = self.job
        config = job.config
        part = job.processes.part(config.batch_size)
        return DataLoader(
            Batches(job.tiles, config.batch_size, config.side, config.seed, part),
            sampler=range(self.state.step, job.config.steps),
            batch_size=None,
            num_workers=job.config.workers,
            pin_memory=job.device.type == "cuda",
            generator=torch.Generator(),
            worker_init_fn=_ignore_signals,
        )

    def _after_step(self, row: LogRow, stopped: bool, progress: Progress) -> None:
        """Validate, probe, draw, log and save, each at its interval and at the last step."""
        job, config = self.job, self.job.config
        last = row.step == config.steps
        row = self._validated(row, last)
        if config.probe and (last or row.step % config.probe_every == 0):
            weights = sharded.full_state_dict(self.state.average)  # in every process
            if job.probe is not None:
                row = replace(row, probe_dice=job.probe(weights, progress).summary.mean)
        self.log.add(row)
        if last or stopped or row.step % config.save_every == 0:
            self.log.flush()
            log.debug("checkpoint of step %d", row.step)
            checkpoint.save(job.config.out / CHECKPOINTS, self.state, self.format, job.processes)

    def _validated(self, row: LogRow, last: bool) -> LogRow:
        """Reconstruct held-out tiles, for scores and for a picture, at their intervals."""
        job, config = self.job, self.job.config
        to_score = bool(self.crops) and (last or row.step % config.validate_every == 0)
        to_draw = bool(self.crops) and (last or row.step % config.picture_every == 0)
        if not (to_score or to_draw):
            return row
        crops = self.crops if to_score else self.crops[:PICTURED]
        views = list(validate.views(crops, self.learner.reconstruct, job.config.seed))
        if to_draw and job.processes.is_main:
            pictured = [view for view in views if view.tile < PICTURED]
            samples.draw(job.config.out / "pictures" / f"step-{row.step:08d}.png", pictured)
        if not to_score:
            return row
        scores = validate.score(views)
        return replace(row, val_l1=scores.l1, val_psnr=scores.psnr, val_ssim=scores.ssim)

    def _share_refused(self, refused_now: dict[str, str]) -> None:
        """Share unusable tiles among the processes; raise a BenchError if there are too many."""
        processes = self.job.processes
        if not processes.sum([len(refused_now)]).item():
            return
        refused, tiles = self.state.refused, len(self.job.tiles)
        refused.update(processes.merge(refused_now))
        if len(refused) <= refusals_allowed(tiles):
            return
        shown = "\n".join(f"- {reason}" for reason in list(refused.values())[:5])
        raise BenchError(
            f"{len(refused)} of {tiles} images cannot be used, and {refusals_allowed(tiles)} are "
            f"allowed. Fix or remove them. The first:\n{shown}"
        )

    def _check_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        checkpoints = models_checkpoints.all_of(self.job.config.out / CHECKPOINTS)
        newest = "there is no checkpoint yet"
        if checkpoints:
            newest = f"the last good checkpoint is {checkpoints[-1]}"
        raise RunFailed(
            f"at step {self.state.step + 1} the loss is {loss} and the norm of the gradient {norm};"
            f" {newest}. The same command would fail again: lower --lr or set --clip 1."
        )


def _ignore_signals(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker, because a terminal sends them to all processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Clock:
    """Measure the speed over the last `over` steps."""

    def __init__(self, job: PretrainJob, over: int = 20) -> None:
        self.images, self.over = job.config.batch_size, over
        self.peak = flops.peak_flops(job.device)
        if self.peak is not None:
            self.peak *= job.processes.size
            self.flops = flops.STEP * flops.forward_flops(job.network, _input_shape(job))
        self.times = [time.perf_counter()]

    def tick(self) -> tuple[float, float | None]:
        """Record the end of a step; return images per second and the model FLOPs utilisation."""
        self.times = [*self.times[-self.over :], time.perf_counter()]
        images_per_s = self.images * (len(self.times) - 1) / (self.times[-1] - self.times[0])
        if self.peak is None:
            return images_per_s, None
        return images_per_s, flops.mfu(images_per_s, self.flops, self.peak)


def _input_shape(job: PretrainJob) -> tuple[int, int, int]:
    """Return the shape (K, h, h) of the network's input."""
    side, latents = job.config.side, job.latents
    if latents is None:
        return 3, side, side
    return latents.channels, side // latents.factor, side // latents.factor
