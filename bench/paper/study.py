"""The pretraining studies in Tables 1 to 3 of the paper.

Sections 3.2, 3.4 and 3.5 of arXiv 2605.08276, with the settings of its appendix B.4. The arms of a
study share images, steps, batches and head; they differ in the fields of `Arm` only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from bench.api import PlanOptions
from bench.api.options import check_choices
from bench.api.run_config import RunConfig
from bench.data import find
from bench.errors import BenchError
from bench.paper.config import StudyConfig
from bench.pretrain.config import PretrainConfig, WeightsConfig

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
        arch, space: as in `bench.pretrain.config.WeightsConfig`.
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
class StudyTable:
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
    StudyTable(
        1,
        "Backbones",
        (
            Arm("DiT", arch="dit", space="latent"),
            Arm("Attention U-Net", arch="attention-unet", space="latent"),
            CONVNEXT,
        ),
        CONVNEXT,
    ),
    StudyTable(
        2,
        "Pixels or VAE latents",
        (
            Arm("VAE latent-space", space="latent"),
            Arm("High-res VAE latent", space="latent-hires"),
            PIXEL,
        ),
        PIXEL,
    ),
    StudyTable(3, "The condition", (Arm("CMD w/o PFM", conditioned=False), WITH_PFM), WITH_PFM),
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
    """A study whose options are resolved.

    Attributes:
        common: the pretraining of a conditioned arm; its `out` is the folder of the study.
        datasets: names of the data sets of the linear probe.
        missing: the paper's data sets that were not found, under the paper's names.
        plan, epochs: settings of the linear probe.
    """

    table: StudyTable
    common: PretrainConfig
    datasets: tuple[str, ...]
    missing: tuple[str, ...]
    plan: PlanOptions
    epochs: int

    def pretraining(self, arm: Arm) -> PretrainConfig:
        """Return the options of the pretraining of an arm.

        Its folder is named by these options so that two tables can share an arm.
        """
        config = replace(
            self.common,
            arch=arm.arch,
            space=arm.space,
            condition=self.common.condition if arm.conditioned else "none",
            vae=self.common.vae if arm.is_latent else WeightsConfig.vae,
        )
        condition = "" if arm.conditioned else "-unconditioned"
        name = f"{arm.arch}-{arm.space}-{config.side}px{condition}"
        return replace(config, out=self.common.out / "arms" / name)

    def input_px(self, arm: Arm) -> int:
        """Return the input side of an arm's probe in pixels, enlarged like its crops."""
        config = self.pretraining(arm)
        return INPUT_PX * config.side // config.crop_px

    def request(self, arm: Arm, dataset: str) -> RunConfig:
        """Return the request of the linear probe of a trained arm."""
        config = self.pretraining(arm)
        return RunConfig(
            backbone=config.backbone,
            dataset=dataset,
            checkpoint=config.out,
            option=config.backbone_options(),
            folds=self.plan.folds,
            seed=self.plan.seed,
            epochs=self.epochs,
            input_px=None if config.input_px is None else self.input_px(arm),
            device=config.device,
        )


def study_of(config: StudyConfig) -> Study:
    """Resolve the options of a study.

    Raises:
        BenchError: an option is invalid or has no effect, or no data set was found.
    """
    check_choices(config)
    table = table_numbered(config.table)
    scale = _scale(config, table)
    if scale.condition == "none":
        raise BenchError(
            "--condition none: the study has conditioned arms. Name a frozen backbone, NAME or "
            "NAME@FILE; `bench list backbones` lists them."
        )
    if config.vae is not None and not table.has_latents:
        raise BenchError(
            f"--vae {config.vae}: all arms of Table {table.number} take pixels. Omit the option."
        )
    common = PretrainConfig(
        **asdict(scale),
        images=config.images,
        out=config.out,
        accumulate=config.accumulate,
        vae=config.vae or WeightsConfig.vae,
        seed=config.seed,
        held_out=config.held_out,
        save_every=max(1, min(1000, scale.steps // 10)),
        picture_every=max(1, scale.steps),
        validate_every=max(1, scale.steps),
        keep=1,
        workers=config.workers,
        device=config.device,
        data=config.data,
    )
    datasets, missing = _chosen_datasets(config)
    plan = PlanOptions(folds=config.folds, seed=config.seed)
    return Study(table, common, datasets, missing, plan, config.epochs)


def table_numbered(number: int) -> StudyTable:
    """Return a table of the paper.

    Raises:
        BenchError: the table is not a study.
    """
    for table in TABLES:
        if table.number == number:
            return table
    numbers = ", ".join(str(table.number) for table in TABLES)
    raise BenchError(f"--table {number}: choose one of {numbers}, the paper's studies.")


def _scale(config: StudyConfig, table: StudyTable) -> Scale:
    """Return the scale with the options that replace its values.

    If any arm takes latents, the crops of all arms are at least `LATENT_CROP_PX`.
    """
    scale = SCALES[config.scale]
    if table.has_latents:
        scale = replace(scale, crop_px=max(scale.crop_px, LATENT_CROP_PX))
    values = {field.name: getattr(config, field.name) for field in fields(Scale)}
    return replace(scale, **{name: v for name, v in values.items() if v is not None})


def _chosen_datasets(config: StudyConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets of a study, and the paper's data sets that were not found."""
    if config.datasets:
        return config.datasets, ()
    homes = find.installed(config.data)
    chosen = tuple(name for name in PAPER_SETS if homes.get(name) is not None)
    if not chosen:
        raise BenchError(
            f"none of the paper's data sets ({', '.join(PAPER_SETS)}) was found. Set `--data DIR`, "
            "where DIR/NAME is a folder with manifest.csv, or choose others with `--datasets A,B`. "
            "`bench datasets` downloads and prepares data sets."
        )
    return chosen, tuple(PAPER_SETS[name] for name in PAPER_SETS if name not in chosen)
