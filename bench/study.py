"""Tables 1 to 3 of the paper as studies: which arms are trained, how, and on what they are scored.

Sections 3.2, 3.4 and 3.5 of arXiv 2605.08276, with the settings of its appendix B.4. All arms of a
study share images, steps, batches and head; what sets one apart is its `Arm` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench import data
from bench.api import PlanOptions
from bench.errors import BenchError
from bench.job import Request
from bench.pretrain.settings import Routine, Settings

PAPER_SETS = {  # as the paper prints them
    "cpm15": "CPM-15",
    "cpm17": "CPM-17",
    "janowczyk": "Janowczyk",
    "kumar": "Kumar",
    "tnbc": "TNBC",
}
INPUT_PX = 256  # of the probe, for an arm whose crops are not enlarged
LATENT_CROP_PX = 256  # gives 32 x 32 latents, the fewest that every network takes


@dataclass(frozen=True)
class Arm:
    """A row of a table: what sets it apart from the others.

    Attributes:
        name: as the paper prints it.
        arch, space: as in `bench.pretrain.settings.Settings`.
        conditioned: whether it takes the description of a frozen backbone.
    """

    name: str
    arch: str = "convnext"
    space: str = "pixel"
    conditioned: bool = True

    @property
    def is_latent(self) -> bool:
        """Whether it sees latents of a VAE, not pixels."""
        return self.space != "pixel"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        reference: the arm that the others are compared with: the paper's choice.
    """

    number: int
    title: str
    arms: tuple[Arm, ...]
    reference: Arm

    @property
    def has_latents(self) -> bool:
        """Whether one of its arms sees latents."""
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
    """How large a study is: the backbone and the budget that its arms share.

    Attributes:
        condition: what the conditioned arms take.
        crop_px: side of the crops; that of high-resolution latents is twice as long.
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
    "paper": Scale("cmd-b", 50_000, 128, 3e-5, 0.9999, "bf16", "uni", 256),  # its batch is unknown
}
PAPER, PAPER_IMAGES = SCALES["paper"], 55_000


@dataclass(frozen=True)
class Study:
    """A table, and everything that is the same for its arms.

    Attributes:
        common: the settings of a conditioned arm.
        missing: the data sets of the paper that were not found, by the paper's names.
        plan, epochs: of the linear probe.
        data: where the data sets lie.
        out: where all that the study makes goes.
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
        """Give the settings of an arm's pretraining."""
        return replace(
            self.common,
            arch=arm.arch,
            space=arm.space,
            condition=self.common.condition if arm.conditioned else "none",
            vae=self.common.vae if arm.is_latent else Settings.vae,
        )

    def folder(self, arm: Arm) -> Path:
        """Name the folder of an arm by what it is: two tables in one `out` share an arm."""
        condition = "" if arm.conditioned else "-unconditioned"
        name = f"{arm.arch}-{arm.space}-{self.settings(arm).side}px{condition}"
        return self.out / "arms" / name

    def input_px(self, arm: Arm) -> int:
        """Give the side of the images of an arm's probe, enlarged as its crops are."""
        own = self.settings(arm)
        return INPUT_PX * own.side // own.crop_px

    def request(self, arm: Arm, dataset: str) -> Request:
        """Ask for the linear probe of a trained arm."""
        own = self.settings(arm)
        return Request(
            backbone=own.backbone,
            dataset=dataset,
            checkpoint=self.folder(arm),
            options=own.reading(),
            plan=self.plan,
            recipe={"epochs": self.epochs},
            input_px=None if own.side == own.crop_px else self.input_px(arm),
            device=self.routine.device,
        )


def table_numbered(number: int) -> Table:
    """Give a table of the paper; a BenchError names those that can be had."""
    for table in TABLES:
        if table.number == number:
            return table
    known = ", ".join(str(table.number) for table in TABLES)
    raise BenchError(f"--table {number}: choose one of {known}, the paper's tables of arms.")


def scale_of(name: str, table: Table) -> Scale:
    """Give a scale as it is for a table: latents need larger crops, and so all of its arms do."""
    if name not in SCALES:
        raise BenchError(f"--scale {name!r} is not one of {', '.join(SCALES)}.")
    scale = SCALES[name]
    return replace(scale, crop_px=max(scale.crop_px, LATENT_CROP_PX if table.has_latents else 0))


def routine(steps: int, workers: int, device: str) -> Routine:
    """Save often enough that little is lost; validate and draw at the end alone."""
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
    """Give the VAE of the latents; a BenchError where one is named and no arm would take it."""
    if name is not None and not table.has_latents:
        raise BenchError(
            f"--vae {name}: all arms of Table {table.number} see pixels; leave it out."
        )
    return name or Settings.vae


def chosen_condition(name: str) -> str:
    """Give the condition; a BenchError where it is "none": every table has an arm with one."""
    if name == "none":
        raise BenchError(
            "--condition none: the paper's arms take a condition. Name a frozen backbone, NAME or "
            "NAME@FILE; `bench list backbones` shows them."
        )
    return name


def chosen_datasets(
    names: str | None, data_dir: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the data sets: those named, else those of the paper that are there.

    Args:
        names: separated by commas.

    Returns:
        The chosen ones, and those of the paper that were looked for and not found.

    Raises:
        BenchError: there are none.
    """
    if names is not None:
        chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        missing: tuple[str, ...] = ()
    else:
        there = data.installed(data_dir)
        chosen = tuple(name for name in PAPER_SETS if there.get(name) is not None)
        missing = tuple(PAPER_SETS[name] for name in PAPER_SETS if name not in chosen)
    if not chosen:
        raise BenchError(
            f"no data set of the paper ({', '.join(PAPER_SETS)}) was found. Give `--data DIR` "
            "where DIR/NAME is a folder with manifest.csv, or name others, `--datasets A,B`; "
            "`bench datasets` downloads and prepares them."
        )
    return chosen, missing
