"""Configuration of the pretraining studies in Tables 1 to 3 of the paper.

Sections 3.2, 3.4 and 3.5 of arXiv 2605.08276, with the settings of its appendix B.4. The arms of a
study share images, steps, batches and head; they differ in the fields of `Arm` only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.api import PlanOptions
from bench.api.config import RunConfig
from bench.data import find
from bench.errors import BenchError
from bench.pretrain.config import Routine, Settings

PAPER_SETS = {  # data sets of the paper, by name: the name it prints
    "cpm15": "CPM-15",
    "cpm17": "CPM-17",
    "janowczyk": "Janowczyk",
    "kumar": "Kumar",
    "tnbc": "TNBC",
}
INPUT_PX = 256  # input side of the probe for an arm whose crops are not enlarged
LATENT_CROP_PX = 256  # gives 32 x 32 latents, the smallest size that every network accepts


@dataclass(frozen=True)
class Arm:
    """One variant of a study: a row of the paper's table.

    Attributes:
        name: as printed in the paper.
        arch, space: as in `bench.pretrain.config.Settings`.
        conditioned: whether the network is conditioned on a frozen backbone's embedding.
    """

    name: str
    arch: str = "convnext"
    space: str = "pixel"
    conditioned: bool = True

    @property
    def is_latent(self) -> bool:
        """Whether the network takes VAE latents instead of pixels."""
        return self.space != "pixel"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        reference: the arm that the others are compared with, the paper's choice.
    """

    number: int
    title: str
    arms: tuple[Arm, ...]
    reference: Arm

    @property
    def has_latents(self) -> bool:
        """Whether any arm takes latents."""
        return any(arm.is_latent for arm in self.arms)


CONVNEXT = Arm("ConvNeXt-UNet", space="latent")
PIXEL = Arm("Pixel-space")
WITH_PFM = Arm("CMD w/ PFM")
TABLES = (
    Table(
        1,
        "Backbones",
        (
            Arm("DiT", arch="dit", space="latent"),
            Arm("Attention U-Net", arch="attention-unet", space="latent"),
            CONVNEXT,
        ),
        CONVNEXT,
    ),
    Table(
        2,
        "Pixels or VAE latents",
        (
            Arm("VAE latent-space", space="latent"),
            Arm("High-res VAE latent", space="latent-hires"),
            PIXEL,
        ),
        PIXEL,
    ),
    Table(3, "The condition", (Arm("CMD w/o PFM", conditioned=False), WITH_PFM), WITH_PFM),
)


@dataclass(frozen=True)
class Scale:
    """The size of a study: backbone and training budget, shared by its arms.

    Attributes:
        lr: learning rate.
        ema: decay of the averaged weights.
        condition: frozen backbone of the conditioned arms.
        crop_px: side of the crops; doubled for high-resolution latents.
    """

    backbone: str
    steps: int
    batch_size: int
    lr: float
    ema: float
    precision: str
    condition: str
    crop_px: int


SCALES = {
    "mini": Scale("cmd-tiny", 300, 4, 4e-4, 0.98, "fp32", "dinov2-s", 64),
    "paper": Scale(
        "cmd-b", 50_000, 128, 3e-5, 0.9999, "bf16", "uni", 256
    ),  # batch size not published
}
PAPER, PAPER_IMAGES = SCALES["paper"], 55_000


@dataclass(frozen=True)
class Study:
    """The full configuration of a study.

    Attributes:
        common: pretraining settings of a conditioned arm.
        missing: the paper's data sets that were not found, under the paper's names.
        plan, epochs: settings of the linear probe.
        images: folder of pretraining images.
        data: folder of the data sets.
        out: output folder.
    """

    table: Table
    common: Settings
    routine: Routine
    datasets: tuple[str, ...]
    missing: tuple[str, ...]
    plan: PlanOptions
    epochs: int
    images: Path
    data: Path | None
    out: Path

    def settings(self, arm: Arm) -> Settings:
        """Return the pretraining settings of an arm."""
        return replace(
            self.common,
            arch=arm.arch,
            space=arm.space,
            condition=self.common.condition if arm.conditioned else "none",
            vae=self.common.vae if arm.is_latent else Settings.vae,
        )

    def folder(self, arm: Arm) -> Path:
        """Return an arm's folder, named by its settings so that two tables can share an arm."""
        condition = "" if arm.conditioned else "-unconditioned"
        name = f"{arm.arch}-{arm.space}-{self.settings(arm).side}px{condition}"
        return self.out / "arms" / name

    def input_px(self, arm: Arm) -> int:
        """Return the input side of an arm's probe in pixels, enlarged like its crops."""
        settings = self.settings(arm)
        return INPUT_PX * settings.side // settings.crop_px

    def request(self, arm: Arm, dataset: str) -> RunConfig:
        """Return the request of the linear probe of a trained arm."""
        settings = self.settings(arm)
        return RunConfig(
            backbone=settings.backbone,
            dataset=dataset,
            checkpoint=self.folder(arm),
            option=settings.reading(),
            folds=self.plan.folds,
            seed=self.plan.seed,
            epochs=self.epochs,
            input_px=None if settings.side == settings.crop_px else self.input_px(arm),
            device=self.routine.device,
        )


def table_numbered(number: int) -> Table:
    """Return a table of the paper.

    Raises:
        BenchError: the table is not a study.
    """
    for table in TABLES:
        if table.number == number:
            return table
    numbers = ", ".join(str(table.number) for table in TABLES)
    raise BenchError(f"--table {number}: choose one of {numbers}, the paper's studies.")


def scale_of(name: str, table: Table) -> Scale:
    """Return a scale for a table; if any arm takes latents, all arms use larger crops.

    Raises:
        BenchError: the scale does not exist.
    """
    if name not in SCALES:
        raise BenchError(f"--scale {name!r} does not exist. Choose one of {', '.join(SCALES)}.")
    scale = SCALES[name]
    return replace(scale, crop_px=max(scale.crop_px, LATENT_CROP_PX if table.has_latents else 0))


def routine(steps: int, workers: int, device: str) -> Routine:
    """Return a training loop that saves frequently, and validates and draws only at the end."""
    every = max(1, min(1000, steps // 10))
    return Routine(
        steps=steps,
        save_every=every,
        picture_every=max(1, steps),
        validate_every=max(1, steps),
        keep=1,
        workers=workers,
        device=device,
    )


def chosen_vae(name: str | None, table: Table) -> str:
    """Return the VAE of the latents.

    Raises:
        BenchError: a VAE is named, but no arm takes latents.
    """
    if name is not None and not table.has_latents:
        raise BenchError(
            f"--vae {name}: all arms of Table {table.number} take pixels. Omit the option."
        )
    return name or Settings.vae


def chosen_condition(name: str) -> str:
    """Return the condition.

    Raises:
        BenchError: the condition is "none", but every table has a conditioned arm.
    """
    if name == "none":
        raise BenchError(
            "--condition none: the study has conditioned arms. Name a frozen backbone, NAME or "
            "NAME@FILE; `bench list backbones` lists them."
        )
    return name


def chosen_datasets(
    names: str | None, data_dir: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets of a study: the named ones, or the paper's installed ones.

    Args:
        names: comma-separated names; None selects the paper's data sets.

    Returns:
        The selected data sets, and the paper's data sets that were not found.

    Raises:
        BenchError: no data set is selected.
    """
    if names is not None:
        chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        missing: tuple[str, ...] = ()
    else:
        homes = find.installed(data_dir)
        chosen = tuple(name for name in PAPER_SETS if homes.get(name) is not None)
        missing = tuple(PAPER_SETS[name] for name in PAPER_SETS if name not in chosen)
    if not chosen:
        raise BenchError(
            f"none of the paper's data sets ({', '.join(PAPER_SETS)}) was found. Set `--data DIR`, "
            "where DIR/NAME is a folder with manifest.csv, or choose others with `--datasets A,B`. "
            "`bench datasets` downloads and prepares data sets."
        )
    return chosen, missing
