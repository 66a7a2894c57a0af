"""The records by which plug-ins describe themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

import numpy as np

from bench.api.data import Labelled, Prediction, Sample
from bench.api.experiment import LinearRecipe, PlanOptions, Recipe, SeriesOptions, Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api.board import Block, BoardOptions
    from bench.api.nn import FeatureExtractor as FeatureExtractor
    from bench.api.nn import Head as Head
    from bench.api.record import Record
    from bench.api.report import ReportOptions, SeriesReport
    from bench.api.run_config import RunConfig


@dataclass(frozen=True)
class Weights:
    """The source of the released weights of a backbone.

    Either a repository and a file on the Hugging Face hub, or a Python package and a file in it,
    or neither.

    Attributes:
        needed: without a source, whether the user must name a file of weights; if False, the model
            runs as it is built, as a control or to be trained from scratch.
    """

    package: str = ""
    repo: str = ""
    file: str = ""
    revision: str | None = None
    sha256: str | None = None
    needed: bool = True


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and its metadata.

    Attributes:
        name: value of `--backbone`.
        build: takes keyword options and returns a `FeatureExtractor` with random weights. It is
            also called on the meta device, so it must create parameters only by torch and read no
            file. Its keyword parameters, with defaults, are the backbone's options on the command
            line; a parameter `input_px` defaults to the side of the square input.
        weights: source of the released weights.
        weights_name: the backbone whose file of weights in the user's cache this one uses; "" for
            its name.
        convert: converts a released state dict to one that the extractor loads strictly; it also
            takes the extractor, for its shapes. None if the names agree.
        title: one line for `bench list`.
        paper: a citation or URL.
        license: licence of the weights.
        gated: whether the hub requires that its terms are accepted.
        params: number of parameters, as published or counted; None if it varies.
        patch: side of a token in pixels; None for a convolutional network.
        mpp: micrometres per pixel of the training images; None if unknown or mixed.
        trained_on: sources of the training images ("TCGA", "ImageNet-22k"), for leakage marks.
        input_px: fixed side of the square input of the `whole` view; None for that of the data
            set.
        default_head: the head of the protocols that do not prescribe one.
        recipe: the default training.
        trainer: the command that creates weights for it; "" if there is none.
        network: builds the network that `bench pretrain` trains, with random weights:
            `network(cond_dim=None, arch="convnext", space="pixel")` takes the width of the
            condition or None, the name of an architecture, and "pixel" or "latent". Its forward
            takes the corrupted x (N, K, h, w), t (N,) and the condition (N, D) or None, and
            predicts the clean x: images in [-1, 1] (K = 3), or latents of a VAE (K = 4, an eighth
            of the image's sides). Both sides of x must be divisible by its `multiple`.
            `FeatureExtractor.load` accepts its state dict. None if it cannot be pretrained.
    """

    name: str
    build: Callable[..., FeatureExtractor]
    weights: Weights = Weights()
    weights_name: str = ""
    convert: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None
    title: str = ""
    paper: str = ""
    license: str = "unknown"
    gated: bool = False
    params: int | None = None
    patch: int | None = None
    mpp: float | None = None
    trained_on: tuple[str, ...] = ()
    input_px: int | None = None
    default_head: str = "decoder"
    recipe: Recipe = Recipe()  # noqa: RUF009 (frozen)
    trainer: str = ""
    network: Callable[..., nn.Module] | None = None


@dataclass(frozen=True)
class BackboneFamily:
    """Backbones whose name is a prefix and the name of a model, such as `timm:resnet50`."""

    name: str  # the prefix with its colon: "timm:"
    expand: Callable[[str], Backbone]
    title: str = ""


@dataclass(frozen=True)
class HeadPlugin:
    """A segmentation head: `build(channels, strides, classes)` returns a `Head` for these maps.

    Attributes:
        recipe: `LinearRecipe` for a `LinearClassifier`, which is solved to convergence on frozen
            features; None for a head that is trained by the backbone's recipe.
    """

    name: str
    build: Callable[[Sequence[int], Sequence[int], int], Head]
    recipe: LinearRecipe | None = None
    title: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Download:
    """An openly hosted release: a file of a Zenodo record, which also provides its checksum."""

    zenodo_record: str
    file: str


@dataclass(frozen=True)
class Dataset:
    """A labelled data set.

    Attributes:
        name: value of `--dataset`, and the name of its folder in the data directory.
        generate: returns the samples of a built-in data set; None if they are read from the data
            directory.
        release: reads the folder of an unpacked official release; None if there is none.
        download: the openly hosted release; None if the user must download it from `homepage`.
        title: one line for `bench list`.
        sources: sources of its images ("TCGA"), for leakage marks.
        input_px: side of the square input of the `whole` view by the extractor's coarsest stride;
            the entry 0 is for all other strides and is rounded to a multiple of the stride.
    """

    name: str
    generate: Callable[[], list[Sample]] | None = None
    release: Callable[[Path], Iterable[Labelled]] | None = None
    download: Download | None = None
    title: str = ""
    paper: str = ""
    license: str = "unknown"
    homepage: str = ""
    sources: tuple[str, ...] = ()
    input_px: Mapping[int, int] = field(default_factory=lambda: {0: 512, 14: 504})


class Report(TypingProtocol):
    """A pure function from several runs to the report on them.

    Args:
        records: the runs that did not fail: those of a command in its order, or a group of stored
            runs, oldest first.
        stored: all runs of the results folder, oldest first.
    """

    def __call__(
        self, records: Sequence[Record], stored: Sequence[Record], options: ReportOptions, /
    ) -> SeriesReport: ...


@dataclass(frozen=True)
class Protocol:
    """An experiment: a pure function from the samples and the options to the trials to run.

    Attributes:
        plan: raises `BenchError` if the options do not fit the samples.
        head: the head that the protocol prescribes; None for `--head` or the backbone's default.
        options: the fields of `PlanOptions` that the protocol reads, besides `folds` and `seed`.
        frozen: whether the protocol evaluates frozen features and refuses trainable backbones.
        report: see `Report`; None if several runs are not reported together.
        group_by: the key of the stored runs that `bench report` reports together; None for a run
            that is not reported. Without a key, stored runs are not reported.
    """

    name: str
    plan: Callable[[Sequence[Sample], PlanOptions], list[Trial]]
    head: str | None = None
    frozen: bool = False
    options: tuple[str, ...] = ()
    report: Report | None = None
    group_by: Callable[[Record], object] | None = None
    title: str = ""


@dataclass(frozen=True)
class Series:
    """An experiment of several runs that are reported together.

    Attributes:
        runs: maps a request of one backbone, data set and maybe head to its runs, each of some
            protocol. Deterministic. Raises `BenchError` if the options do not fit.
        report: see `Report`; it gets the runs of all backbones and data sets.
        options: the fields of `PlanOptions` and `SeriesOptions` that it reads, besides `folds` and
            `seed`.
        backbones: the default backbones; empty for the usual default.
        fewest: the smallest number of backbones.
        group_by: see `Protocol`.
    """

    name: str
    runs: Callable[[RunConfig, SeriesOptions], list[RunConfig]]
    report: Report
    options: tuple[str, ...] = ()
    backbones: Callable[[SeriesOptions], Sequence[str]] = lambda _: ()
    fewest: int = 1
    group_by: Callable[[Record], object] | None = None
    title: str = ""


@dataclass(frozen=True)
class Metric:
    """A family of scores over the same counts.

    Attributes:
        count: takes a prediction and the true instances, (H, W) int32 with 0 for background, and
            returns the raw counts of one image: finite numbers from 0 to 1e15.
        scores: by name, a function that takes (n,) float64 arrays by count name and returns (n,)
            scores without NaN.
        defined: by name, a function of the same counts that returns (n,) bool: where a score is
            defined.
        lower_is_better: names of the scores that are errors or distances: 0 is perfect.
    """

    name: str
    count: Callable[[Prediction, np.ndarray], dict[str, float]]
    scores: Mapping[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]]
    defined: Mapping[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = field(
        default_factory=dict
    )
    lower_is_better: frozenset[str] = frozenset()
    title: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """A view of the records, oldest first: `rows(records, options)` is a pure function."""

    name: str
    rows: Callable[[Sequence[Record], BoardOptions], list[Block]]
    title: str = ""
