"""A linear probe of the weights during training.

The score equals that of `bench run --checkpoint` on the exported weights to the last digit, but
nothing is written to a results store or to the feature cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from bench.api import Progress, board
from bench.api.record import Record
from bench.api.run_config import RunConfig
from bench.board import scores
from bench.features import numerics
from bench.runs.resolve import refuse_leaks, resolve
from bench.runs.session import Session
from bench.runs.trials import TrialRunner
from bench.store.results import Store

METRIC = "dice"  # of the foreground
BYTES = 2  # per value of a stored feature map


class Probe:
    """A linear-probe run that can be repeated with other weights.

    Attributes:
        job: the prepared run; its extractor is on the CPU between probes.
    """

    def __init__(self, config: RunConfig, data: Path | None = None) -> None:
        """Prepare the run.

        Args:
            config: the run, with the options of the backbone that fit the weights; its protocol,
                head and checkpoint are replaced.
            data: the folder of the data sets.

        Raises:
            BenchError: the data set is not found, its splits share patients, or the backbone
                cannot be built with these options.
        """
        config = replace(
            config, protocol="linear-probe", head=None, checkpoint=None, weights="random"
        )
        self.job = resolve(config, Session(data))
        refuse_leaks(self.job)
        self.job.runner.load()
        self.job.runner.extractor.cpu()

    def __call__(self, weights: Mapping[str, Tensor], progress: Progress) -> board.Score:
        """Score weights; torch's random state and modes are unchanged afterwards.

        Args:
            weights: the state dict of the backbone's network.

        Returns:
            The Dice coefficient of the foreground, with its interval over the test images.

        Raises:
            RunFailed: a loss or a logit is not finite.
        """
        runner = self.job.runner

        def report(stage: str, done: int, total: int) -> None:
            progress(f"probe: {stage}", done, total)

        with _isolated(runner.device), TemporaryDirectory() as folder:
            runner.extractor.load(weights)
            runner.extractor.to(runner.device)
            try:
                execution = TrialRunner(self.job, Store(Path(folder)), "probe", cache=None)
                trials = execution.run(None, report)
            finally:
                runner.extractor.cpu()
        scored = sorted({image for trial in trials for image in trial.images})
        patients = {image: self.job.samples[image].patient for image in scored}
        record = Record(self.job.spec, {}, patients, self.job.flags, tuple(trials))
        return scores.score(record, METRIC, board.BoardOptions())

    def memory_bytes(self) -> int:
        """Return the memory that the features of all images need; reads every image."""
        runner = self.job.runner
        extractor, side = runner.extractor, runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=True)
        patch = BYTES * sum(channels * (side // stride) ** 2 for channels, stride in levels)
        used = {image for trial in self.job.trials for image in (*trial.train, *trial.test)}
        sizes = [self.job.samples[image].read()[1].shape for image in used]
        return patch * sum(runner.view.patches(height, width) for height, width in sizes)


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Use the numerical modes of `bench run`, and restore modes and random state afterwards."""
    cuda = [device] if device.type == "cuda" else []
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    no_autocast = torch.autocast(device.type, enabled=False)
    with torch.random.fork_rng(devices=cuda), torch.enable_grad(), no_autocast:
        numerics.forbid_tf32()
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
            torch.backends.cudnn.allow_tf32 = cudnn
