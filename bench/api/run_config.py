"""The config of a run, of a grid of runs, and of their output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.api.board import METHODS
from bench.api.experiment import MIN_STEPS, Adaptation, PlanOptions, Recipe, SeriesOptions
from bench.api.options import check_choices, option, options
from bench.errors import BenchError

VIEWS = ("whole", "tiles")
RECIPES = ("default", "paper")
PRECISIONS = ("fp32", "bf16")
RECIPE_OPTIONS = ("epochs", "lr", "batch_size", "weight_decay")
CMD_OPTIONS = ("timestep", "blocks", "condition")  # also backbone options with a flag of their own


@dataclass(frozen=True)
class RunConfig:
    """The config of one run: options of `bench run`, arguments of `bench.run`, keys of TOML files.

    An option that is None takes the default of the protocol, the backbone or the data set. The
    field of an option with `many` holds one value; see `Grid` for several.
    """

    backbone: str = option(
        "cmd-tiny",
        "The backbone: NAME, NAME@FILE for weights in a file, or NAME@random:SEED for an "
        "untrained control (without :SEED the seed is 0).",
        panel="Model",
        choices="backbones",
        many=True,
    )
    dataset: str = option(
        "synthetic",
        "The data set: a name, or a folder with a manifest.csv.",
        panel="Data",
        choices="datasets",
        many=True,
    )
    protocol: str = option(
        "linear-probe",
        "The protocol or series; `bench list protocols` describes them.",
        panel="Protocol",
        choices="protocols",
        many=True,
    )
    head: str | None = option(
        None,
        "The head. The default is that of the protocol, else that of the backbone.",
        panel="Model",
        choices="heads",
        many=True,
    )
    checkpoint: Path | None = option(
        None, "A file or a folder of weights for the backbone.", panel="Model"
    )
    weights: str = option(
        "released",
        "Use the released weights, or random ones as an untrained control.",
        panel="Model",
        choices=("released", "random"),
    )
    accept_license: bool = option(
        False, "Download weights whose licence this program does not know.", panel="Model"
    )
    timestep: int | None = option(None, "CMD: the time step of the features.", panel="Model")
    blocks: str | None = option(
        None, "CMD: the decoder blocks to use, for example 1,3,5.", panel="Model"
    )
    condition: str | None = option(
        None, "CMD: a frozen backbone as the condition, or none.", panel="Model"
    )
    shots: int | None = option(
        None, "fewshot: the size of a support set. The default is 5.", panel="Protocol", many=True
    )
    shots_unit: str | None = option(
        None,
        "fewshot: the unit of --shots. The default is images.",
        panel="Protocol",
        choices=("images", "nuclei"),
    )
    draws: int | None = option(
        None, "fewshot, labels: the number of support sets. The default is 5.", panel="Protocol"
    )
    fraction: float | None = option(
        None,
        "labels, scaling: the fraction of the training images, above 0 and at most 1.",
        panel="Protocol",
        many=True,
        flag="--fractions",
    )
    shift: str = option(
        "",
        "robustness: kinds of shifts, or names such as blur-2. The default is all.",
        panel="Protocol",
        many=True,
        flag="--shifts",
    )
    target_dataset: str | None = option(
        None,
        "transfer: the data set whose test images are scored.",
        panel="Protocol",
        choices="datasets",
        many=True,
    )
    scale_over: str = option(
        "",
        "scaling: what is varied: labels, steps, capacity or resolution.",
        panel="Protocol",
    )
    checkpoints: Path | None = option(
        None, "scaling over steps: the output folder of a pretraining.", panel="Protocol"
    )
    folds: int | None = option(
        None,
        "The number of folds over all images, by patient; 0 uses the official split. The default "
        "is 5 if the official test split has fewer than 10 patients, else 0.",
        panel="Protocol",
    )
    seed: int = option(
        0,
        "The seed of heads, batches and support sets.",
        panel="Protocol",
        many=True,
    )
    recipe: str | None = option(
        None,
        "The training. default solves the linear probe to convergence, and trains every other head "
        f"for {MIN_STEPS} steps or more; paper trains both by the paper's recipe, as the options "
        "below do.",
        panel="Training",
        choices=RECIPES,
        many=True,
    )
    epochs: int | None = option(
        None,
        f"The number of epochs. The default is the backbone's; for heads {Recipe.epochs}.",
        panel="Training",
        many=True,
    )
    lr: float | None = option(
        None,
        f"The learning rate. The default is the backbone's; for heads {Recipe.lr:g}.",
        panel="Training",
        many=True,
    )
    batch_size: int | None = option(
        None,
        f"Patches per step. The default is the backbone's; for heads {Recipe.batch_size}.",
        panel="Training",
        many=True,
    )
    weight_decay: float | None = option(
        None,
        f"The weight decay. The default is the backbone's; for heads {Recipe.weight_decay:g}.",
        panel="Training",
        many=True,
    )
    ttt: bool = option(
        False,
        "CMD: adapt the backbone to each test image before scoring it, and compare with the same "
        "run without adaptation.",
        panel="Test-time training",
    )
    view: str | None = option(
        None,
        "Resize whole images, or blend tiles at native resolution. The default is tiles for a "
        "folder of images of your own, and whole for the data sets of `bench list datasets`.",
        panel="Data",
        choices=VIEWS,
    )
    input_px: int | None = option(
        None, "The side of the square input in pixels.", panel="Data", many=True
    )
    precision: str = option(
        "fp32", "Compute in fp32, or with bf16 autocast.", panel="Runtime", choices=PRECISIONS
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", panel="Runtime")
    limit: int | None = option(
        None,
        "Use at most this many training and test images: a smoke run, which no leaderboard lists.",
        panel="Data",
    )
    ttt_option: Mapping[str, str] = option(
        dict,
        "A setting of test-time training: steps, views, lr, part (adaln, decoder, all) or online.",
        panel="Test-time training",
    )
    option: Mapping[str, str] = option(dict, "Any other option of the backbone.", panel="Model")

    @property
    def plan(self) -> PlanOptions:
        """The options of the protocol, with their defaults."""
        values = {
            "shots": self.shots,
            "draws": self.draws,
            "fraction": self.fraction,
            "by": self.shots_unit,
        }
        chosen: dict[str, Any] = {name: each for name, each in values.items() if each is not None}
        return PlanOptions(folds=self.folds or 0, seed=self.seed, **chosen)

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """The fields of `Recipe` that the user sets."""
        values = {name: getattr(self, name) for name in RECIPE_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def backbone_options(self) -> dict[str, str]:
        """The options of the backbone as text."""
        values = {name: getattr(self, name) for name in CMD_OPTIONS}
        named = {name: str(value) for name, value in values.items() if value is not None}
        return named | dict(self.option)

    @property
    def adaptation(self) -> Adaptation | None:
        """The settings of test-time training; None without it."""
        return Adaptation.parse(self.ttt_option) if self.ttt else None

    @property
    def random(self) -> bool:
        """Whether the backbone is the untrained control."""
        return self.weights == "random"

    def without_ttt(self) -> RunConfig:
        """Return the config of the same run without test-time training."""
        return replace(self, ttt=False, ttt_option={})

    def check(self) -> None:
        """Raise a BenchError if an option is invalid by itself."""
        if self.weights not in ("released", "random"):
            raise BenchError(
                f"--weights {self.weights!r} is not one of released, random; for a file use "
                "--checkpoint."
            )
        check_choices(self)
        for name in ("limit", "input_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchError(f"--{name.replace('_', '-')}: give a positive number.")
        if self.ttt_option and not self.ttt:
            raise BenchError("--ttt-option without --ttt: add --ttt.")
        _ = self.adaptation


@dataclass(frozen=True)
class Grid:
    """The configs of several runs: one config, and lists of values for some of its fields.

    Attributes:
        config: the config with the first value of each list.
        lists: the values of the options with `many` that are set, by field; one value or more.
    """

    config: RunConfig
    lists: Mapping[str, tuple[Any, ...]]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Grid:
        """Return the grid of values by field; a tuple holds several values of a field."""
        known = options(RunConfig)
        lists = {
            name: value if isinstance(value, tuple) else (value,)
            for name, value in values.items()
            if known[name].many and value is not None
        }
        single = {name: value for name, value in values.items() if not known[name].many}
        first = {name: each[0] for name, each in lists.items()}
        return cls(RunConfig(**single, **first), lists)

    @property
    def series(self) -> SeriesOptions:
        """The options of a series."""
        return SeriesOptions(
            shifts=self.lists.get("shift", ()),
            target_datasets=self.lists.get("target_dataset", ()),
            scale_over=self.config.scale_over,
            fractions=self.lists.get("fraction", ()),
            checkpoints=self.config.checkpoints,
            input_px=self.lists.get("input_px", ()),
        )

    @property
    def changed(self) -> set[str]:
        """The fields that are set or differ from their default."""
        default = RunConfig()
        changed = {
            each.name
            for each in fields(RunConfig)
            if getattr(self.config, each.name) != getattr(default, each.name)
        }
        return changed | set(self.lists)


@dataclass(frozen=True)
class Output:
    """Where runs are stored, and how their scores are computed and reported."""

    ci: str = option(
        "expanded",
        "The interval: expanded or bca resample patients; percentile resamples images, as the "
        "paper does.",
        panel="Statistics",
        choices=METHODS,
    )
    resamples: int = option(10_000, "The number of bootstrap resamples.", panel="Statistics")
    data: Path | None = option(None, "The folder of the data sets.", panel="Data")
    results: Path = option(Path("results"), "The folder of the results.", panel="Output")
    save_masks: bool = option(False, "Save the predicted masks as PNG.", panel="Output")
    plot: Path | None = option(
        None, "Draw the curves of several runs to a .svg, .png or .pdf file.", panel="Output"
    )
    as_json: bool = option(
        False, "Print one JSON document on standard output.", panel="Output", flag="--json"
    )
    cache: bool = option(True, "Cache the features of frozen backbones.", panel="Runtime")
    force: bool = option(
        False, "Run again and store the new run beside the existing one.", panel="Runtime"
    )

    def check(self) -> None:
        """Raise a BenchError if an option is invalid."""
        check_choices(self)
        if self.resamples < 100:
            raise BenchError(f"--resamples {self.resamples}: use 100 or more.")


@dataclass(frozen=True)
class Needs:
    """The resources that a run needs on a node of a Ray cluster."""

    cpus: float = option(1.0, "The number of CPU cores per run.", panel="Cluster")
    gpus: float = option(
        0.0, "The number of GPUs per run; several runs share a GPU by fractions.", panel="Cluster"
    )
    memory_gib: float = option(
        0.0, "The memory per run in GiB; 0 for no requirement.", panel="Cluster"
    )

    def check(self) -> None:
        """Raise a BenchError if a number is negative."""
        for name in ("cpus", "gpus", "memory_gib"):
            if getattr(self, name) < 0:
                raise BenchError(f"--{name.replace('_', '-')}: use 0 or more.")

    def task_options(self) -> dict[str, float | int]:
        """Return the options of a Ray task."""
        options: dict[str, float | int] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_gib:
            options["memory"] = int(self.memory_gib * 2**30)
        return options
