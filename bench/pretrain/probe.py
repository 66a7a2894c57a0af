"""A linear probe while a network is trained: what `bench run` would report of its weights now.

It is the run that `bench run --checkpoint` makes of the exported weights, to the last digit, apart
from what that writes: nothing goes to a results store or to the cache of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from bench import board, context
from bench.api import Progress
from bench.job import Request, refuse_leaks, resolve
from bench.record import Record, TrialResult
from bench.store import Store
from bench.trials import Execution

METRIC = "dice"  # of the foreground
BYTES = 2  # of a value in a kept map


class Probe:
    """A run that is ready to be made again and again, with other weights each time.

    Attributes:
        job: what is run; its extractor lies on the CPU between probes.
    """

    def __init__(self, request: Request, data: Path | None = None) -> None:
        """Find everything that a probe needs.

        Args:
            request: the run, its backbone by name and with the options that fit the weights; the
                protocol is always `linear-probe`, and the weights come later.
            data: the folder that holds the data sets.

        Raises:
            BenchError: the data set is not found or its parts are not independent, or the backbone
                cannot be built with these options.
        """
        asked = replace(request, protocol="linear-probe", head=None, checkpoint=None, random=True)
        self.job = resolve(asked, data)
        refuse_leaks(self.job)
        self.job.runner.extractor.cpu()

    def __call__(self, weights: Mapping[str, Tensor], progress: Progress) -> board.Score:
        """Score weights as they stand; the random numbers and the modes of torch stay as they were.

        Args:
            weights: the state dict of the backbone's network.

        Returns:
            The Dice of the foreground, mean and interval over the test images.

        Raises:
            RunFailed: a loss or a logit is not finite.
        """
        runner = self.job.runner

        def report(stage: str, done: int, total: int) -> None:
            progress(f"probe: {stage}", done, total)

        with _undisturbed(runner.device), TemporaryDirectory() as folder:
            runner.extractor.load(weights)
            runner.extractor.to(runner.device)
            try:
                execution = Execution(self.job, Store(Path(folder)), "probe", cache=None)
                trials = execution.run(None, report)
            finally:
                runner.extractor.cpu()
        return board.score(self._record(trials), METRIC, board.BoardOptions())

    def memory_bytes(self) -> int:
        """Tell how much memory the features of all images take during a probe; it reads them."""
        runner = self.job.runner
        extractor, side = runner.extractor, runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=True)
        patch = BYTES * sum(channels * (side // stride) ** 2 for channels, stride in levels)
        used = {image for trial in self.job.trials for image in (*trial.train, *trial.test)}
        sizes = [self.job.samples[image].read()[1].shape for image in used]
        return patch * sum(runner.view.patches(height, width) for height, width in sizes)

    def _record(self, trials: list[TrialResult]) -> Record:
        scored = sorted({image for trial in trials for image in trial.images})
        patients = {image: self.job.samples[image].patient for image in scored}
        return Record(self.job.spec, {}, patients, self.job.flags, tuple(trials))


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Run as `bench run` does, whatever surrounds it, and leave all as it was."""
    cuda = [device] if device.type == "cuda" else []
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    plain = torch.autocast(device.type, enabled=False)
    with torch.random.fork_rng(devices=cuda), torch.enable_grad(), plain:
        context.forbid_tf32()
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
            torch.backends.cudnn.allow_tf32 = cudnn
