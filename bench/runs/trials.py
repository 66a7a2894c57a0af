"""Train and score the trials of a job."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bench import registry
from bench.api import Head, Metric, Prediction, Progress, Trial
from bench.api.record import TrialResult, draw_of
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.features import cache as kept
from bench.features.bank import FeatureBank, cache_key
from bench.runs.environment import Stopwatch
from bench.runs.head_cache import damage, keep, recall, training_key
from bench.runs.resolve import ResolvedRun, extractor_identity
from bench.store.cache_dir import is_writable, say_read_only
from bench.store.files import write_bytes
from bench.store.results import Store, mask_path
from bench.training.fit import TrainingSet, fit
from bench.training.optim import trained
from bench.training.predict import Predictor

log = logging.getLogger(__name__)


class TrialRunner:
    """A job under way: its bank of features, its finished trials, and the time they took."""

    def __init__(
        self,
        job: ResolvedRun,
        store: Store,
        run_id: str,
        cache: Path | None,
        *,
        keep_large: bool = False,
    ) -> None:
        """Take the folder of caches; None keeps features in memory, and no heads.

        Args:
            keep_large: keep what was trained however large it is.
        """
        self.job = job
        self.store = store
        self.run_id = run_id
        self.cache = cache
        self.heads = cache and cache / "heads"
        self.keep_large = keep_large
        self.metrics = _metrics()
        self.seconds = {"features": 0.0, "training": 0.0, "scoring": 0.0}
        self.head_parameters = 0
        folder = cache and cache / "features" / cache_key(extractor_identity(job), job.runner)
        self.bank = FeatureBank(job.runner, list(job.samples.values()), folder)
        elsewhere = job.request.shift or job.request.target_dataset is not None
        scored = list(job.scored.values())
        self.scored = FeatureBank(job.runner, scored, folder) if elsewhere else self.bank

    def run(self, masks: Path | None, progress: Progress) -> list[TrialResult]:
        """Run every trial that is not finished yet; all of them when masks are wanted.

        Args:
            masks: where to keep the predicted masks; None keeps none.
        """
        used = self.bank.cache if self.job.runner.frozen else None
        if self.cache is not None and not all(map(is_writable, filter(None, (used, self.heads)))):
            say_read_only(self.cache)
        with kept.claimed(used):
            return self._run(masks, progress)

    def is_kept(self) -> bool:
        """Tell whether all maps that the trials need are kept, so that no extractor has to run.

        The folder's manifest, which a run with a loaded extractor wrote, must say of it just what
        this one says of itself.
        """
        folder, runner = self.bank.cache, self.job.runner
        if folder is None or not runner.frozen or self.job.request.adaptation is not None:
            return False
        if kept.manifest(folder) != self._about():
            return False
        return all(bank.keeps(images) for bank, _, images in self._needed(self.job.trials))

    def _run(self, masks: Path | None, progress: Progress) -> list[TrialResult]:
        # Here, so that a head that does not fit is told before features are made.
        self.head_parameters = sum(each.numel() for each in self._new_head(0).parameters())
        done = {} if masks else self.store.kept_trials(self.run_id)
        trials = self.job.trials
        missing = [n for n in range(len(trials)) if n not in done]
        with Stopwatch(self.seconds, "features"):
            self._prepare([trials[number] for number in missing], progress)
        for count, number in enumerate(missing):
            progress("trials", count, len(missing))
            log.debug("trial %d of %d: %s", number + 1, len(trials), _about(trials[number]))
            done[number] = self._trial(trials[number], masks, progress)
            self.store.keep_trial(self.run_id, number, done[number])
        progress("trials", len(missing), len(missing))
        return [done[number] for number in range(len(trials))]

    def forget(self) -> None:
        """Drop all that was kept of an extractor whose features cannot be trusted."""
        self.store.clear(self.run_id)
        for folder in filter(None, (self.bank.cache, self.scored.cache)):
            shutil.rmtree(folder, ignore_errors=True)
        for file in filter(None, map(self._head_file, self.job.trials)):
            with suppress(OSError):  # of a cache that cannot be written
                file.unlink(missing_ok=True)

    def _prepare(self, trials: list[Trial], progress: Progress) -> None:
        for bank, dataset, images in self._needed(trials):
            self._prepare_bank(bank, dataset, images, progress)

    def _needed(self, trials: Sequence[Trial]) -> list[tuple[FeatureBank, str, list[str]]]:
        """List the images whose features are needed; none for a training that was done before."""
        trained_on = {image for t in trials if not self._kept(t) for image in t.train}
        tested = {image for t in trials if self.job.request.adaptation is None for image in t.test}
        if self.scored is self.bank:
            return [(self.bank, self.job.handle.name, sorted(trained_on | tested))]
        return [
            (self.bank, self.job.handle.name, sorted(trained_on)),
            (self.scored, self.job.target, sorted(tested)),
        ]

    def _prepare_bank(
        self, bank: FeatureBank, dataset: str, images: list[str], progress: Progress
    ) -> None:
        if bank.cache is not None and bank.writes and bank.runner.frozen and images:
            wanted = [bank.samples[image].fingerprint for image in images]
            kept.describe(bank.cache, self._about(), dataset, wanted)
        bank.prepare(images, progress)

    def _about(self) -> dict[str, object]:
        """Describe whose maps are kept, for the manifest of their folder."""
        opened, runner = self.job.opened, self.job.runner
        extractor = runner.extractor
        return {
            "backbone": opened.backbone.name,
            "weights": opened.identity,
            "options": {name: str(each) for name, each in opened.options.items()},
            "view": f"{runner.view.kind} {runner.view.px}",
            "precision": runner.precision,
            "channels": list(extractor.channels),
            "strides": list(extractor.strides),
            "parameters": sum(each.numel() for each in extractor.parameters()),
        }

    def _kept(self, trial: Trial) -> Path | None:
        """Give the file of a training that was done before."""
        file = self._head_file(trial)
        return None if file is None or not file.is_file() or damage(file) else file

    def _head_file(self, trial: Trial) -> Path | None:
        if self.heads is None or not trial.train:
            return None
        return self.heads / f"{training_key(self.job, trial)}.safetensors"

    def _new_head(self, seed: int) -> Head:
        extractor = self.job.runner.extractor
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = self.job.head.build(extractor.channels, extractor.strides, len(Head.classes))
        return head.to(self.job.runner.device)

    def _trial(self, trial: Trial, masks: Path | None, progress: Progress) -> TrialResult:
        head, loss = self._new_head(trial.seed), None
        if trial.train and trained(head, self.job.runner.extractor):
            with Stopwatch(self.seconds, "training"):
                loss = self._learn(head, trial, progress)
        head.eval()
        rows = []
        with Stopwatch(self.seconds, "scoring"), self._segmenter(head, trial).opened() as segment:
            for done, image in enumerate(trial.test):
                progress("scoring", done, len(trial.test))
                _, instances = self.job.scored[image].read()
                prediction = segment(image, instances.shape)
                rows.append(count(self.metrics, prediction, instances))
                if masks is not None:
                    write_bytes(mask_path(masks, draw_of(trial.tags), image), _png(prediction.mask))
        progress("scoring", len(trial.test), len(trial.test))
        counts = {name: tuple(row[name] for row in rows) for name in rows[0]}
        return TrialResult(trial.tags, trial.train, loss, trial.test, counts)

    def _learn(self, head: Head, trial: Trial, progress: Progress) -> float:
        """Take what the same training gave before, or train; give its loss."""
        modules: dict[str, nn.Module] = {"head": head}
        if not self.job.runner.frozen:
            modules["extractor"] = self.job.runner.extractor
        file = self._head_file(trial)
        loss = None if file is None else recall(file, modules)
        log.debug("%s", "trains" if loss is None else f"was trained before: {file}")
        if loss is None:
            if not self.job.runner.frozen:
                self.job.begin(trial.seed)
            loss = self._fit(head, trial, progress)
            whole = self.bank.fits.parts == 1
            if file is not None and whole and is_writable(file.parent):
                keep(file, modules, loss, large=self.keep_large)
        return loss

    def _fit(self, head: Head, trial: Trial, progress: Progress) -> float:
        """Train with the trial's own random numbers, so that dropout repeats too."""
        with torch.random.fork_rng():
            torch.manual_seed(trial.seed)
            return fit(head, self._lesson(trial), self.job.recipe, trial.seed, progress)

    def _segmenter(self, head: Head, trial: Trial) -> Predictor:
        mirror = self.job.recipe.mirror and not self.job.runner.frozen
        asked = self.job.request
        undo = shift(asked.shift).undo if asked.shift else None
        return Predictor(head, self.scored, mirror, asked.adaptation, trial.seed, undo)

    def _lesson(self, trial: Trial) -> TrainingSet:
        patches, targets = [], []
        for image in trial.train:
            _, instances = self.job.samples[image].read()
            for number, target in enumerate(self.job.runner.view.cut_target(instances)):
                patches.append((image, number))
                targets.append(target)
        return TrainingSet(self.bank, patches, targets)


def count(metrics: list[Metric], prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count one image, the true instances (H, W) int32, for every metric."""
    counts: dict[str, float] = {}
    for metric in metrics:
        own = metric.count(prediction, truth)
        if own.keys() & counts.keys():
            both = sorted(own.keys() & counts.keys())
            raise BenchError(
                f"two metrics count {both}, one of them {metric.name!r}: uninstall or rename one."
            )
        counts |= own
    return counts


def _about(trial: Trial) -> str:
    tags = ", ".join(f"{name} {value}" for name, value in trial.tags.items())
    sizes = f"seed {trial.seed}, {len(trial.train)} training and {len(trial.test)} test images"
    return f"{tags}, {sizes}" if tags else sizes


def _metrics() -> list[Metric]:
    return [registry.get("metrics", name) for name in registry.names("metrics")]


def _png(mask: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()
