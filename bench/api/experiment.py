"""What an experiment consists of: the request, its plan, its recipe and its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
    """What a protocol may be asked.

    Attributes:
        shots: size of a support set, in what `by` names.
        draws: support sets.
        folds: over all images; 0 keeps the data set's official split.
        fraction: of the training images, above 0 and at most 1.
        by: what `shots` counts: "images" or "nuclei".
    """

    shots: int = 5
    draws: int = 5
    folds: int = 0
    seed: int = 0
    fraction: float = 1.0
    by: str = "images"


@dataclass(frozen=True)
class SeriesOptions:
    """What a series may be asked; what is empty was not given.

    Attributes:
        shifts: kinds or names in `bench.data.shifts`.
        to: data sets whose test images are scored.
        axis: what is varied.
        fractions: of the training images.
        checkpoints: a folder of checkpoints.
        input_px: sides of the square input.
    """

    shifts: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    axis: str = ""
    fractions: tuple[float, ...] = ()
    checkpoints: Path | None = None
    input_px: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a run trains: by default the paper's Table B3, with the batch it does not give.

    Attributes:
        epochs: passes over the training patches; the last one is scored, none is selected.
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


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        head: None takes the protocol's head, or else the backbone's default.
        checkpoint: a file of weights for the backbone.
        random: run the untrained control: the same network with random weights.
        accept_license: whether weights may be fetched whose licence is not known here.
        options: the backbone's own options, as text.
        recipe: what of the training is unlike the backbone's own recipe, by the field of `Recipe`.
        ttt: test-time training, on the images that are scored.
        shift: a name in `bench.data.shifts`: how the images that are scored are changed.
        to: score the test images of this data set instead of the own ones.
        input_px: side of the square input; None takes the backbone's or the data set's.
        limit: a smoke run on at most this many training and test images; it is stamped.
    """

    backbone: str = "cmd-tiny"
    dataset: str = "synthetic"
    protocol: str = "linear-probe"
    head: str | None = None
    checkpoint: Path | None = None
    random: bool = False
    accept_license: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    plan: PlanOptions = field(default_factory=PlanOptions)
    recipe: Mapping[str, object] = field(default_factory=dict)
    ttt: Adaptation | None = None
    shift: str = ""
    to: str | None = None
    view: str = "whole"
    input_px: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    limit: int | None = None
