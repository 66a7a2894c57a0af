"""Options of `bench study` and `bench reproduce`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from bench.api import PlanOptions, Recipe
from bench.api.options import option

PRETRAINING, EVALUATION, HARDWARE = "Pretraining", "Evaluation", "Hardware"
FROM_SCALE = "Default: from --scale."
PLAN, RECIPE = PlanOptions(), Recipe()


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The options of `bench study`. None takes the value of the scale."""

    table: int = option(MISSING, "Table 1, 2 or 3 of the paper.")
    images: Path = option(MISSING, "Folder of pretraining images at any depth, or of tar shards.")
    out: Path = option(MISSING, "Output folder: arms, results and tables.")
    scale: str = option(
        "mini",
        "Size of the study: mini takes minutes to hours; paper has the paper's sizes and budget.",
        choices=("mini", "paper"),
    )
    backbone: str | None = option(
        None, f"Backbone to pretrain. {FROM_SCALE}", panel=PRETRAINING, choices="backbones"
    )
    steps: int | None = option(None, f"Number of steps per arm. {FROM_SCALE}", panel=PRETRAINING)
    batch_size: int | None = option(
        None, f"Number of images per step. {FROM_SCALE}", panel=PRETRAINING
    )
    accumulate: int = option(
        1, "Number of parts of a batch, for gradient accumulation.", panel=PRETRAINING
    )
    lr: float | None = option(None, f"Learning rate. {FROM_SCALE}", panel=PRETRAINING)
    ema: float | None = option(
        None, f"Decay per step of the average of the weights. {FROM_SCALE}", panel=PRETRAINING
    )
    precision: str | None = option(
        None,
        f"Precision of the network. {FROM_SCALE}",
        panel=PRETRAINING,
        choices=("fp32", "bf16"),
    )
    condition: str | None = option(
        None,
        f"Frozen backbone of the conditioned arms: NAME or NAME@FILE. {FROM_SCALE}",
        panel=PRETRAINING,
    )
    vae: str | None = option(None, "VAE of the arms that take latents.", panel=PRETRAINING)
    crop_px: int | None = option(
        None,
        f"Side of the crops in pixels; doubled for high-resolution latents. {FROM_SCALE}",
        panel=PRETRAINING,
    )
    held_out: int = option(16, "Number of validation images.", panel=PRETRAINING)
    seed: int = option(0, "Seed of the pretraining and of the probes.", panel=PRETRAINING)
    datasets: tuple[str, ...] = option(
        (),
        "Data sets A,B,... Default: those of the paper that are installed.",
        panel=EVALUATION,
        many=True,
    )
    folds: int = option(
        PLAN.folds,
        "Number of cross-validation folds over all images, by patient; 0 uses the official split.",
        panel=EVALUATION,
    )
    epochs: int = option(RECIPE.epochs, "Number of epochs of the linear probe.", panel=EVALUATION)
    data: Path | None = option(None, "Folder of the data sets.", panel=EVALUATION)
    device: str = option(
        "auto", "Device to train on: auto, cpu, cuda, cuda:N or mps.", panel=HARDWARE
    )
    workers: int = option(
        0, "Number of processes that read images; 0 reads in the main process.", panel=HARDWARE
    )


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """The options of `bench reproduce`."""

    table: str = option(MISSING, "Table 4, 5, 6, 7 or C1 of the paper.")
    checkpoints: Path | None = option(
        None,
        "Folder of weights: NAME.safetensors, or output folders of `bench pretrain`. Names of CMD "
        "include the steps, as in cmd-l-80k.",
    )
    only: tuple[str, ...] = option((), "Run only this method, named as printed; may be repeated.")
    dry_run: bool = option(False, "Show the commands and obstacles, and run nothing.")
    epochs: int | None = option(None, "Number of epochs. Default: from the recipes.")
    limit: int | None = option(None, "Smoke run on at most this many images.")
    device: str = option("auto", "Device to run on: auto, cpu, cuda, cuda:N or mps.")
    data: Path | None = option(None, "Folder of the data sets.")
    results: Path = option(Path("results"), "Folder of the results.")
