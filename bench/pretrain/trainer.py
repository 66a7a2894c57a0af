"""The loop around the steps: batches in, a log, pictures and checkpoints out."""

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

from bench import flops
from bench.api import Progress
from bench.errors import BenchError, RunFailed
from bench.memory import keep_freed_memory
from bench.pretrain import checkpoint, pictures, sharded, trackers, validate
from bench.pretrain.batches import Batch, Batches, refusals_allowed
from bench.pretrain.job import CHECKPOINTS, Job
from bench.pretrain.learner import Learner
from bench.pretrain.validate import Scores
from bench.pretrain.watch import Log, Row

PICTURED = 4  # tiles in a picture
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Where a training stands when it returns.

    Attributes:
        begun, step: how many steps were done before, and are done.
        finished: False where it was asked to stop.
        loss: mean of the last 100 steps; None where there are none.
        scores: the newest validation; None without held-out tiles.
        probe_dice: of the newest linear probe; None without one.
        refused: the tiles that could not be used, with the reason.
        tuned: what `lr` and `clip` were, each with the number of steps done before.
        weights: the averaged ones, on the CPU; empty in every process but the first.
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
        self.clock = _Clock(job)  # first: it looks at the network as it was built
        self.learner = Learner(job)
        self.state = self.learner.state
        self.form = checkpoint.Form(job.identity, job.routine.keep, job.routine.shard)
        newest = checkpoint.all_of(job.out / CHECKPOINTS)[-1:]
        for path in newest:
            log.debug("goes on from %s", path)
            checkpoint.restore(path, self.state, self.form)
        self._refuse_fewer_steps()
        self.begun = self.state.step
        if self.state.step < job.routine.steps:
            self.state.tune(job.tuned)
        self.crops = validate.crops_of(job.held_out, job.settings.side, self.state.refused)
        follows = job.routine.track and job.world.leads and self.state.step < job.routine.steps
        tracker = trackers.start(job.routine.track, job.out, job.told()) if follows else None
        self.log = Log(job.out, self.state.step, job.world.leads, tracker)

    def run(self, progress: Progress, stop: Callable[[], object]) -> Outcome:
        """Train until the last step or until `stop`."""
        with closing(self.log):
            return self._run(progress, stop)

    def _run(self, progress: Progress, stop: Callable[[], object]) -> Outcome:
        steps, stopped = self.job.routine.steps, False
        for batch in self._batches():
            self._share_refused(dict(batch.refused))
            loss, norm = self.learner.step(batch.images)
            self._refuse_if_not_finite(loss, norm)
            self.learner.update(norm)
            rate, mfu = self.clock.tick()
            stopped = bool(self.job.world.total([bool(stop())]).item())  # one asked stops all
            self._after_step(Row(self.state.step, loss, norm, rate, mfu=mfu), stopped, progress)
            of_peak = "" if mfu is None else f", MFU {mfu:.0%}"
            told = f"pretrain: loss {self.log.loss(20):.4f}, {rate:.1f} images/s{of_peak}"
            progress(told, self.state.step, steps)
            if stopped:
                break
        return self._outcome()

    def _outcome(self) -> Outcome:
        state = self.state
        loss = self.log.loss() if self.log.rows else None
        finished = state.step == self.job.routine.steps
        weights = sharded.whole_weights(state.average)
        return Outcome(
            begun=self.begun,
            step=state.step,
            finished=finished,
            loss=loss,
            scores=self.log.scores(),
            probe_dice=self.log.probe_dice(),
            refused=state.refused,
            tuned=state.tuned,
            weights=weights,
        )

    def _batches(self) -> DataLoader[Batch]:
        job = self.job
        settings = job.settings
        part = job.world.part(settings.batch_size)
        return DataLoader(
            Batches(job.tiles, settings.batch_size, settings.side, settings.seed, part),
            sampler=range(self.state.step, job.routine.steps),
            batch_size=None,
            num_workers=job.routine.workers,
            pin_memory=job.device.type == "cuda",
            generator=torch.Generator(),
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def _after_step(self, row: Row, stopped: bool, progress: Progress) -> None:
        """Validate, probe, draw, note and save, each when it is due."""
        job, routine = self.job, self.job.routine
        last = row.step == routine.steps
        row = self._validated(row, last)
        if routine.probe and (last or row.step % routine.probe_every == 0):
            row = replace(row, probe_dice=self._probed(progress))
        self.log.add(row)
        if last or stopped or row.step % routine.save_every == 0:
            self.log.flush()
            log.debug("checkpoint of step %d", row.step)
            checkpoint.save(job.out / CHECKPOINTS, self.state, self.form, job.world)

    def _validated(self, row: Row, last: bool) -> Row:
        """Reconstruct held-out tiles where it is due, for the log and for a picture."""
        job, routine = self.job, self.job.routine
        to_score = bool(self.crops) and (last or row.step % routine.validate_every == 0)
        to_draw = bool(self.crops) and (last or row.step % routine.picture_every == 0)
        if not (to_score or to_draw):
            return row
        seen = self._views(self.crops if to_score else self.crops[:PICTURED])
        if to_draw and job.world.leads:
            pictured = [view for view in seen if view.tile < PICTURED]
            pictures.draw(job.out / "pictures" / f"step-{row.step:08d}.png", pictured)
        if not to_score:
            return row
        scores = validate.score(seen)
        return replace(row, val_l1=scores.l1, val_psnr=scores.psnr, val_ssim=scores.ssim)

    def _probed(self, progress: Progress) -> float | None:
        """Score the averaged weights on labelled images, in the first process."""
        weights = sharded.whole_weights(self.state.average)
        if self.job.probe is None:
            return None
        return self.job.probe(weights, progress).summary.mean

    def _views(self, crops: list[Tensor]) -> list[validate.View]:
        return list(validate.views(crops, self.learner.reconstruct, self.job.settings.seed))

    def _share_refused(self, newly: dict[str, str]) -> None:
        """Tell all processes what could not be used; too much of it ends the training."""
        world = self.job.world
        if not world.total([len(newly)]).item():
            return
        refused, tiles = self.state.refused, len(self.job.tiles)
        refused.update(world.gathered(newly))
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
            f" {good}. The same command would fail there again: lower --lr or set --clip 1."
        )

    def _refuse_fewer_steps(self) -> None:
        done, asked = self.state.step, self.job.routine.steps
        if done > asked:
            raise BenchError(
                f"{self.job.out} was trained for {done} steps already, more than --steps {asked}. "
                "Give more steps, or another --out."
            )


def _leave_signals_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: a terminal sends them to the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Clock:
    """Measure the speed over the last steps."""

    def __init__(self, job: Job, over: int = 20) -> None:
        self.images, self.over = job.settings.batch_size, over
        self.peak = flops.peak_flops(job.device)  # of each process
        if self.peak is not None:
            self.peak *= job.world.size
            self.flops = flops.STEP * flops.forward_flops(job.network, _seen(job))
        self.times = [time.perf_counter()]

    def tick(self) -> tuple[float, float | None]:
        """Give images per second, and the share of the device's peak, a step being over."""
        self.times = [*self.times[-self.over :], time.perf_counter()]
        rate = self.images * (len(self.times) - 1) / (self.times[-1] - self.times[0])
        return rate, None if self.peak is None else flops.mfu(rate, self.flops, self.peak)


def _seen(job: Job) -> tuple[int, int, int]:
    """Give the shape of what the network sees of a crop: (K, h, h)."""
    side, latents = job.settings.side, job.latents
    if latents is None:
        return 3, side, side
    return latents.channels, side // latents.factor, side // latents.factor
