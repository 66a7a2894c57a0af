"""What a run consists of: its options, its recipe and its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError

MIN_STEPS = 600  # of the default recipe: 150 epochs of 32 images
PARSERS = {
    int: int,
    float: float,
    str: str,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
}


@dataclass(frozen=True)
class Adaptation:
    """Settings of test-time training.

    Attributes:
        steps: number of Adam steps per image.
        views: number of masked copies of the image per step.
        lr: learning rate; the default is that of the paper's pretraining.
        part: name of the trained part of the extractor; for CMD "adaln", "decoder" or "all".
        online: continue from the weights of the previous test image instead of starting from the
            trained weights.
    """

    steps: int = 20
    views: int = 8
    lr: float = 3e-5
    part: str = "adaln"
    online: bool = False

    @classmethod
    def parse(cls, pairs: Mapping[str, str]) -> Adaptation:
        """Return the settings that are written as text, by name.

        Raises:
            BenchError: unknown setting, or a value out of range.
        """
        parsers = {name: PARSERS[type(value)] for name, value in asdict(cls()).items()}
        values: dict[str, Any] = {}
        for name, text in pairs.items():
            if name not in parsers:
                raise BenchError(f"--ttt-option has no {name!r}; it takes {', '.join(parsers)}.")
            try:
                values[name] = parsers[name](text)
            except (ValueError, KeyError) as error:
                kind = type(getattr(cls, name)).__name__
                raise BenchError(f"--ttt-option {name}={text!r} is not of type {kind}.") from error
        settings = cls(**values)
        if settings.steps < 1 or settings.views < 1 or not 0 < settings.lr < math.inf:
            raise BenchError("--ttt-option: steps, views and lr are positive numbers.")
        return settings


@dataclass(frozen=True)
class Trial:
    """One training and its scoring: what a protocol plans and the runner executes.

    Attributes:
        train: ids of the images to train on; empty for a zero-shot trial.
        test: ids of the images to score.
        seed: seeds the head's initial weights and the order of the batches.
        tags: what tells this trial from its siblings: {"shots": 5, "draw": 0, "fold": 2}.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int
    tags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanOptions:
    """Options of a protocol.

    Attributes:
        shots: size of a support set, in the unit `by`.
        draws: number of support sets.
        folds: number of folds over all images; 0 uses the data set's official split.
        fraction: fraction of the training images, above 0 and at most 1.
        by: unit of `shots`: "images" or "nuclei".
    """

    shots: int = 5
    draws: int = 5
    folds: int = 0
    seed: int = 0
    fraction: float = 1.0
    by: str = "images"


@dataclass(frozen=True)
class SeriesOptions:
    """Options of a series of runs; an empty one is not set.

    Attributes:
        shifts: kinds or names in `bench.data.shifts`.
        target_datasets: data sets whose test images are scored.
        scale_over: what a scaling series varies.
        fractions: fractions of the training images.
        checkpoints: a folder of checkpoints.
        input_px: sides of the square input in pixels.
    """

    shifts: tuple[str, ...] = ()
    target_datasets: tuple[str, ...] = ()
    scale_over: str = ""
    fractions: tuple[float, ...] = ()
    checkpoints: Path | None = None
    input_px: tuple[int, ...] = ()


@dataclass(frozen=True)
class LinearRecipe:
    """The linear probe is solved to convergence, see `bench.training.probe`: it has no settings."""

    solver: str = "lbfgs"

    @property
    def name(self) -> str:
        """A word for the recipe, as `Recipe.name`."""
        return "converged"


@dataclass(frozen=True)
class Recipe:
    """How a run trains: by default the paper's Table B3, with the batch it does not give.

    Attributes:
        epochs: passes over the training patches; the last one is scored, none is selected.
        min_steps: fewest optimiser steps: with few patches there are more epochs. 0, and absent in
            JSON, trains for `epochs`, as the paper does.
        batch_size: patches a step; the last batch of an epoch may be smaller.
        weight_decay: torch's default for AdamW, since the paper names none for heads.
        optimiser: "adamw", or "sgd".
        momentum: of SGD.
        nesterov: whether SGD looks ahead.
        schedule: "cosine" down to 0, or "poly": (1 - step / steps) ** power.
        power: of the "poly" schedule.
        warmup_steps: of a linear warm-up; never more than a tenth of all steps.
        layer_decay: factor from each of the extractor's `layers` to the one before it; below 1,
            biases and gains do not decay (as in BEiT and ViT-Adapter).
        clip: largest norm of the gradient; None does not clip.
        augment: a name in `bench.training.augment`; for an extractor that trains.
        foreground: least share of the patches of a batch that show a nucleus.
        mirror: average the logits of an image over its mirror images; for one that trains.
    """

    epochs: int = 150
    lr: float = 1e-3
    batch_size: int = 8
    weight_decay: float = 0.01
    optimiser: str = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "cosine"
    power: float = 0.9
    warmup_steps: int = 0
    layer_decay: float = 1.0
    clip: float | None = None
    augment: str = "none"
    foreground: float = 0.0
    mirror: bool = False
    min_steps: int = 0

    @property
    def name(self) -> str:
        """The value of `--recipe` that gives this recipe, apart from changes by other options."""
        return "default" if self.min_steps else "paper"
