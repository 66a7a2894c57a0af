"""The records by which plug-ins describe themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

import numpy as np

from bench.api.data import Labelled, Prediction, Sample
from bench.api.experiment import PlanOptions, Recipe, SeriesOptions, Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api.board import Block, BoardOptions
    from bench.api.config import RunConfig
    from bench.api.nn import FeatureExtractor as FeatureExtractor
    from bench.api.nn import Head as Head
    from bench.api.record import Record
    from bench.api.report import ReportOptions, SeriesReport


@dataclass(frozen=True)
class Weights:
    """Where the released weights of a backbone lie.

    A repository and a file on the Hugging Face hub; or a Python package and a file in it; or
    nothing: then the weights must be given by the user (`needed`) or the model runs as it is built
    (a control, or one that is trained from scratch: `needed=False`).
    """

    package: str = ""
    repo: str = ""
    file: str = ""
    revision: str | None = None
    sha256: str | None = None
    needed: bool = True


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and what is known about it.

    Attributes:
        name: what `--backbone` takes.
        build: keyword options in, a `FeatureExtractor` with random weights out. It is called on the
            meta device too, so it creates parameters by torch alone and reads no file. Its keyword
            parameters, with defaults, are the backbone's options on the command line; one that is
            called `input_px` gets the side of the square input where the user does not name it.
        weights: where the released weights lie.
        weights_name: the backbone whose file of weights in the user's cache this one takes; "": its
            own.
        convert: turns a released state dict into one that the extractor loads strictly; gets the
            extractor too, for its shapes. None: the names agree already.
        title: one line for `bench list`.
        paper: a citation or URL.
        license: of the weights.
        gated: whether the hub asks for terms to be accepted.
        params: number of parameters, as published or counted; None where it depends.
        patch: side of a token in pixels; None for a convolutional network.
        mpp: micrometres per pixel that the model was trained at; None where unknown or mixed.
        trained_on: the sources of its training images ("TCGA", "ImageNet-22k"), for leakage marks.
        input_px: fixed side of the square input of the `whole` view; None: the data set's own.
        default_head: the head of the protocols that do not prescribe one.
        recipe: how it is trained where the user does not say.
        trainer: the command that makes weights for it; "" where there is none.
        network: makes what `bench pretrain` trains, with random weights: `network(cond_dim=None,
            arch="convnext", space="pixel")`, given the width of the condition or None, the name of
            an architecture, and "pixel" or "latent". Its forward takes x (N, K, h, w), corrupted,
            t (N,) and the condition (N, D) or None, and predicts the clean x: images in [-1, 1]
            (K = 3), or latents of a VAE (K = 4, sides an eighth of the image's). Its `multiple`
            says what both sides of x must be divisible by. `FeatureExtractor.load` takes its state
            dict. None: not pretrained here.
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
    """Backbones that are named by a prefix and what follows it, as in `timm:resnet50`."""

    name: str  # the prefix with its colon: "timm:"
    expand: Callable[[str], Backbone]
    title: str = ""


@dataclass(frozen=True)
class HeadPlugin:
    """A segmentation head: `build(channels, strides, classes)` gives a `Head` for those maps."""

    name: str
    build: Callable[[Sequence[int], Sequence[int], int], Head]
    title: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Download:
    """An openly hosted release: a Zenodo record, asked for its files and their checksums."""

    zenodo_record: str
    file: str


@dataclass(frozen=True)
class Dataset:
    """A labelled set of images.

    Attributes:
        name: what `--dataset` takes, and the name of its folder under the data directory.
        generate: makes the samples of a built-in set; None: they are read from the data directory.
        release: reads an official release, unpacked in the given folder; None: there is none.
        download: where the release is openly hosted; None: the user fetches it (see `homepage`).
        title: one line for `bench list`.
        sources: where its images come from ("TCGA"), for leakage marks.
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
        plan: raises `BenchError` where the options do not fit the samples.
        head: the head that the protocol prescribes; None: the backbone's default, or `--head`.
        options: which fields of `PlanOptions` the protocol reads, besides `folds` and `seed`.
        frozen: whether it is about frozen features: a backbone that trains is refused.
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
        runs: a request of one backbone, data set and maybe head to those of its runs, each of some
            protocol; the same each time. Raises `BenchError` where the options do not fit.
        report: see `Report`; it gets the runs of all backbones and data sets.
        options: which fields of `PlanOptions` and `SeriesOptions` it reads, besides `folds` and
            `seed`.
        backbones: those that are run where the user names none; empty: the usual one.
        fewest: backbones that it needs.
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
        count: a prediction and the true instances, (H, W) int32 with 0 for background, to the raw
            counts of one image: finite numbers from 0 to 1e15.
        scores: by name, a function of a mapping from count name to (n,) float64 arrays that gives
            (n,) scores; it never gives NaN.
        defined: by name, where a score means something: (n,) bool of the same counts.
        lower_is_better: the names of the scores that are errors or distances: 0 is perfect.
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
