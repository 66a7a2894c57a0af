"""Train and score the trials of a resolved run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bench import registry
from bench.api import Head, LinearRecipe, Metric, Prediction, Progress, Recipe, Trial
from bench.api.record import TrialResult, draw_of
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.features import cache as feature_cache
from bench.features.bank import FeatureBank, cache_key
from bench.runs import head_cache
from bench.runs.environment import Stopwatch
from bench.runs.memory import divide_or_refuse
from bench.runs.resolve import ResolvedRun, extractor_identity
from bench.store.cache_dir import is_writable, say_read_only
from bench.store.files import write_bytes
from bench.store.results import Store, mask_path
from bench.training import probe
from bench.training.fit import Fitted, TrainingSet, fit
from bench.training.optim import trained
from bench.training.predict import Predictor

log = logging.getLogger(__name__)


class TrialRunner:
    """The trials of a run, with its feature banks.

    Attributes:
        bank, scored: feature banks of the training and of the scored images; often the same.
        heads: folder of trained heads; None caches none.
        seconds: time spent on features, training and scoring.
        head_parameters: number of parameters of the head.
    """

    def __init__(
        self,
        run: ResolvedRun,
        store: Store,
        run_id: str,
        cache: Path | None,
        *,
        keep_large: bool = False,
    ) -> None:
        """Create the feature banks.

        Args:
            cache: folder of caches; None caches features in memory only, and no heads.
            keep_large: cache trained heads of any size.
        """
        self.resolved = run
        self.store = store
        self.run_id = run_id
        self.cache = cache
        self.heads = cache and cache / "heads"
        self.keep_large = keep_large
        self.metrics: list[Metric] = [
            registry.get("metrics", name) for name in registry.names("metrics")
        ]
        self.seconds = {"features": 0.0, "training": 0.0, "scoring": 0.0}
        self.head_parameters = 0
        folder = cache and cache / "features" / cache_key(extractor_identity(run), run.runner)
        self.bank = FeatureBank(run.runner, list(run.samples.values()), folder)
        self.scored = self.bank
        if run.config.shift or run.config.target_dataset is not None:
            self.scored = FeatureBank(run.runner, list(run.scored.values()), folder)

    def run(self, masks: Path | None, progress: Progress) -> list[TrialResult]:
        """Run all trials that are not finished; with masks, all trials.

        Args:
            masks: folder of the predicted masks; None saves none.
        """
        features = self.bank.cache if self.resolved.runner.frozen else None
        if self.cache is not None:
            folders = [folder for folder in (features, self.heads) if folder is not None]
            if not all(is_writable(folder) for folder in folders):
                say_read_only(self.cache)
        return self._run(masks, progress)

    def _run(self, masks: Path | None, progress: Progress) -> list[TrialResult]:
        # First, since a head that does not fit is refused before features are computed.
        self.head_parameters = sum(weight.numel() for weight in self._new_head(0).parameters())
        done = {} if masks else self.store.load_trials(self.run_id)
        trials = self.resolved.trials
        missing = [number for number in range(len(trials)) if number not in done]
        lessons = [trials[number] for number in missing if trials[number].train]
        divide_or_refuse(
            self.resolved,
            [trial for trial in lessons if not self._is_head_cached(trial)],
            self.bank.fits,
        )
        with Stopwatch(self.seconds, "features"):
            if missing and not self.resolved.reuses_maps:
                self.resolved.runner.load()
            self._prepare([trials[number] for number in missing], progress)
        for count, number in enumerate(missing):
            progress("trials", count, len(missing))
            log.debug("trial %d of %d: %s", number + 1, len(trials), _description(trials[number]))
            done[number] = self._trial(trials[number], masks, progress)
            self.store.save_trial(self.run_id, number, done[number])
        progress("trials", len(missing), len(missing))
        return [done[number] for number in range(len(trials))]

    def _prepare(self, trials: Sequence[Trial], progress: Progress) -> None:
        """Compute the feature maps of all images that the trials need."""
        run = self.resolved
        trained_on = {
            image for trial in trials if not self._is_head_cached(trial) for image in trial.train
        }
        tested = {
            image for trial in trials if run.config.adaptation is None for image in trial.test
        }
        if self.scored is self.bank:
            self._prepare_bank(self.bank, run.handle.name, trained_on | tested, progress)
        else:
            self._prepare_bank(self.bank, run.handle.name, trained_on, progress)
            self._prepare_bank(self.scored, run.target.name, tested, progress)

    def _prepare_bank(
        self, bank: FeatureBank, dataset: str, images: set[str], progress: Progress
    ) -> None:
        if bank.cache is not None and bank.writes and bank.runner.frozen and images:
            fingerprints = [bank.samples[image].fingerprint for image in images]
            feature_cache.describe(bank.cache, self._about(), dataset, fingerprints)
        bank.prepare(sorted(images), progress)

    def _about(self) -> dict[str, object]:
        """Describe the extractor of the cached maps."""
        opened, runner = self.resolved.opened, self.resolved.runner
        extractor = opened.extractor
        return {
            "backbone": opened.backbone.name,
            "weights": opened.identity,
            "options": {name: str(value) for name, value in opened.options.items()},
            "view": f"{runner.view.kind} {runner.view.px}",
            "precision": runner.precision,
            "channels": list(extractor.channels),
            "strides": list(extractor.strides),
            "parameters": sum(weight.numel() for weight in extractor.parameters()),
        }

    def _is_head_cached(self, trial: Trial) -> bool:
        path = self._head_path(trial)
        return path is not None and head_cache.is_cached(path)

    def _head_path(self, trial: Trial) -> Path | None:
        """Return the file of the trained head; None if heads are not cached, or none is trained."""
        if self.heads is None or not trial.train:
            return None
        return self.heads / f"{head_cache.training_key(self.resolved, trial)}.safetensors"

    def _new_head(self, seed: int) -> Head:
        run = self.resolved
        extractor = run.opened.extractor
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = run.head.build(extractor.channels, extractor.strides, len(Head.classes))
        return head.to(run.runner.device)

    def _trial(self, trial: Trial, masks: Path | None, progress: Progress) -> TrialResult:
        head, fitted = self._new_head(trial.seed), Fitted(None, {})
        if trial.train and trained(head, self.resolved.runner.extractor):
            with Stopwatch(self.seconds, "training"):
                fitted = self._train(head, trial, progress)
        head.eval()
        rows = []
        with Stopwatch(self.seconds, "scoring"), self._predictor(head, trial).opened() as predict:
            for done, image in enumerate(trial.test):
                progress("scoring", done, len(trial.test))
                _, instances = self.resolved.scored[image].read()
                prediction = predict(image, instances.shape)
                rows.append(count(self.metrics, prediction, instances))
                if masks is not None:
                    write_bytes(mask_path(masks, draw_of(trial.tags), image), _png(prediction.mask))
        progress("scoring", len(trial.test), len(trial.test))
        counts = {name: tuple(row[name] for row in rows) for name in rows[0]}
        loss, training = fitted.loss, fitted.training
        return TrialResult(trial.tags, trial.train, loss, trial.test, counts, training)

    def _train(self, head: Head, trial: Trial, progress: Progress) -> Fitted:
        """Load the cached weights of the same training, or train."""
        run = self.resolved
        modules: dict[str, nn.Module] = {"head": head}
        if not run.runner.frozen:
            modules["extractor"] = run.runner.extractor
        path = self._head_path(trial)
        fitted = None if path is None else head_cache.load(path, modules)
        log.debug("%s", "trains" if fitted is None else f"cached training: {path}")
        if fitted is None:
            fitted = self._fit(head, trial, progress)
            is_whole = self.bank.fits.parts == 1
            if path is not None and is_whole and is_writable(path.parent):
                head_cache.save(path, modules, fitted, large=self.keep_large)
        return fitted

    def _fit(self, head: Head, trial: Trial, progress: Progress) -> Fitted:
        run, lesson = self.resolved, self._training_set(trial)
        if isinstance(run.recipe, LinearRecipe):
            return probe.fit(head, lesson, trial.seed, progress)
        if not run.runner.frozen:
            run.reset_weights(trial.seed)
        with torch.random.fork_rng():
            torch.manual_seed(trial.seed)  # of dropout
            return fit(head, lesson, run.recipe, trial.seed, progress)

    def _predictor(self, head: Head, trial: Trial) -> Predictor:
        config = self.resolved.config
        recipe = self.resolved.recipe
        mirrors = isinstance(recipe, Recipe) and recipe.mirror
        mirror = mirrors and not self.resolved.runner.frozen
        undo = shift(config.shift).undo if config.shift else None
        return Predictor(head, self.scored, mirror, config.adaptation, trial.seed, undo)

    def _training_set(self, trial: Trial) -> TrainingSet:
        patches, targets = [], []
        for image in trial.train:
            _, instances = self.resolved.samples[image].read()
            for number, target in enumerate(self.resolved.runner.view.cut_target(instances)):
                patches.append((image, number))
                targets.append(target)
        return TrainingSet(self.bank, patches, targets)


def count(metrics: Sequence[Metric], prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Return the counts of all metrics on an image with true instances (H, W) int32.

    Raises:
        BenchError: two metrics have a count of the same name.
    """
    counts: dict[str, float] = {}
    for metric in metrics:
        counts_of_metric = metric.count(prediction, truth)
        if duplicates := sorted(counts_of_metric.keys() & counts.keys()):
            raise BenchError(
                f"two metrics count {duplicates}, one of them {metric.name!r}: uninstall or rename "
                "one."
            )
        counts |= counts_of_metric
    return counts


def _description(trial: Trial) -> str:
    tags = ", ".join(f"{name} {value}" for name, value in trial.tags.items())
    sizes = f"seed {trial.seed}, {len(trial.train)} training and {len(trial.test)} test images"
    return f"{tags}, {sizes}" if tags else sizes


def _png(mask: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()
