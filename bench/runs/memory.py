"""Estimate the peak memory of a run, and divide or refuse training batches that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.api import FeatureExtractor, Head, HeadPlugin, LinearRecipe, Recipe, Trial
from bench.errors import BenchError
from bench.features.bank import MEMORY_BYTES, FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.out_of_memory import BatchSplit
from bench.features.views import View
from bench.runs.resolve import ResolvedRun
from bench.training import memory, pixel_sample

PROCESS_BYTES = 700 << 20  # of Python and torch, measured on Linux without a GPU
PROBE_COPIES = 3  # of the sampled pixels' features in the linear probe
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The parts of a run on which the memory of its training depends.

    Attributes:
        extractor: on the meta device.
        trials: those that are trained.
    """

    head: HeadPlugin
    extractor: FeatureExtractor
    recipe: Recipe | LinearRecipe
    view: View
    trials: Sequence[Trial]
    device_type: str = "cpu"

    @property
    def images(self) -> int:
        """The largest number of training images of a trial."""
        return max((len(trial.train) for trial in self.trials), default=0)

    @property
    def patches(self) -> int:
        """The number of patches of the largest batch; a few images have enough tiles for one."""
        if isinstance(self.recipe, LinearRecipe) or not self.images:
            return 0
        size = self.recipe.batch_size
        return min(size, self.images) if self.view.kind == "whole" else size

    def new_head(self) -> Head:
        """Build the head on the meta device."""
        with torch.device("meta"):
            extractor = self.extractor
            return self.head.build(extractor.channels, extractor.strides, len(Head.classes))

    def step_bytes(self, parts: int = 1) -> int:
        """Return the memory of a training step whose batch is divided into parts."""
        head, side = self.new_head(), self.view.px
        if isinstance(self.recipe, LinearRecipe):
            pixels = min(pixel_sample.MOST_PIXELS, pixel_sample.PIXELS * self.images)
            return PROBE_COPIES * 4 * pixels * sum(self.extractor.channels)
        if not self.patches or not any(True for _ in [*head.parameters(), *self._trained()]):
            return 0
        patches = -(-self.patches // parts)
        return memory.training_bytes(head, self.extractor, side, patches, self.device_type)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self.extractor.parameters() if weight.requires_grad]

    def maps_bytes(self, patches: int) -> int:
        """Return the memory of the cached maps of patches, which is limited."""
        bank = FeatureBank(self._runner(), [], None)
        return 0 if self._trained() else min(MEMORY_BYTES, bank.estimated_bytes(patches))

    def extraction_bytes(self) -> int:
        """Return the memory of a forward pass of the extractor on as many patches as are used."""
        bank = FeatureBank(self._runner(), [], None)
        return memory.extraction_bytes(self.extractor, self.view.px, bank.patches_at_once)

    def _runner(self) -> ExtractorRunner:
        return ExtractorRunner(self.extractor, self.view, torch.device("cpu"))


def peak_bytes(training: Training, patches: int) -> int | None:
    """Estimate the peak memory of a run on a CPU; None if a plug-in cannot run on the meta device.

    The estimate is that of the process, the weights of the extractor, the maps of all images in
    memory, and the larger one of the extraction and the training step.

    Args:
        patches: number of patches whose maps are computed.
    """
    weights = sum(weight.nbytes for weight in training.extractor.parameters())
    try:
        work = max(training.step_bytes(), training.extraction_bytes())
    except Exception as error:  # raised by a plug-in, for example on the meta device
        log.debug("the memory of %s is not estimated: %r", training.head.name, error)
        return None
    return PROCESS_BYTES + weights + training.maps_bytes(patches) + work


def divide_or_refuse(run: ResolvedRun, trials: Sequence[Trial], fits: BatchSplit) -> None:
    """Divide the training batches of a run if a training step exceeds the available memory.

    Linux grants more memory than there is, and kills the process later without a message.

    Args:
        trials: those that are trained.
        fits: stores the number of parts.

    Raises:
        BenchError: batches cannot be divided, or a single patch exceeds the memory.
    """
    device, view = run.runner.device, run.runner.view
    training = Training(run.head, run.opened.extractor, run.recipe, view, trials, device.type)
    available, patches = memory.available_bytes(device), training.patches
    if available is None or not patches:
        return
    try:
        needed = training.step_bytes()
        if needed <= available:
            return
        is_divisible = memory.is_divisible(training.new_head(), training.extractor)
        parts = fits.parts
        while is_divisible and parts < patches and training.step_bytes(parts) > available:
            parts = min(2 * parts, patches)
        fits_in_parts = is_divisible and training.step_bytes(parts) <= available
    except BenchError:
        raise
    except Exception as error:  # raised by a plug-in, for example on the meta device
        log.debug("the memory of %s is not estimated: %r", run.head.name, error)
        return
    need = (
        f"a training step of the head {run.head.name!r} with {patches} patches of "
        f"{view.px} px needs about {needed / 2**30:.1f} GiB of memory, and "
        f"{available / 2**30:.1f} GiB are available"
    )
    if not fits_in_parts:
        raise BenchError(
            f"{need}; {'one patch' if is_divisible else 'batch norm needs the whole batch, which'}"
            " does not fit. Use `--head linear`, a smaller --input-px, or a smaller --batch-size "
            "(with --recipe paper)."
        )
    log.warning("%s: each batch is divided into %d parts, with the same gradient.", need, parts)
    fits.parts = parts
