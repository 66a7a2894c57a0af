"""Scaling series: score against labels, pretraining steps, parameters or input size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.report import Told
from bench.board.scores import label
from bench.errors import BenchError
from bench.protocols._curves import Axis, curves_of, lines_of, tell_of_labels, told_curves
from bench.protocols._reporting import ON_ALL, on_all, recalled

if TYPE_CHECKING:
    from bench.api.config import RunConfig
    from bench.api.report import Finished, Result

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
SIZES = ("cmd-tiny", "cmd-s", "cmd-b", "cmd-l")


@dataclass(frozen=True)
class Way:
    """One axis of the series.

    Attributes:
        runs: returns the requests along the axis.
        tell: reports the results.
        reads: name of the option that only this axis reads.
    """

    runs: Callable[[RunConfig, SeriesOptions], list[RunConfig]]
    tell: Callable[[Finished], Told]
    reads: str = ""


def runs(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return the requests along an axis.

    Raises:
        BenchError: unknown axis, or an option of another axis.
    """
    if options.scale_over not in AXES:
        problem = (
            f"unknown axis {options.scale_over!r}"
            if options.scale_over
            else "'scaling' needs an axis"
        )
        raise BenchError(f"{problem}: --scale-over takes {', '.join(AXES)}.")
    for name, axis in AXES.items():
        if name == options.scale_over or not axis.reads:
            continue
        if axis.reads == "input_px" and len(options.input_px) == 1:
            continue  # one size applies to all runs of any axis
        if getattr(options, axis.reads):
            raise BenchError(f"--{axis.reads.replace('_', '-')} is for --scale-over {name}.")
    return AXES[options.scale_over].runs(request, options)


def tell(finished: Finished) -> Told:
    """Report the curves along the axis."""
    return AXES[finished.series.scale_over].tell(finished)


def _labels(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    return [
        replace(request, protocol="labels", fraction=fraction)
        for fraction in options.fractions or FRACTIONS
    ]


def _steps(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return one request per checkpoint of a pretraining, oldest first."""
    from bench.models.checkpoints import all_of

    folder = options.checkpoints
    if folder is None:
        raise BenchError("--scale-over steps needs the folder of a pretraining: --checkpoints DIR.")
    checkpoints = all_of(folder / "checkpoints") or all_of(folder)
    if not checkpoints:
        raise BenchError(
            f"there are no checkpoints step-N in {folder}. Give the --out of a `bench pretrain`."
        )
    return [replace(on_all(request), checkpoint=path) for path in checkpoints]


def _sides(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    if len(options.input_px) < 2:
        raise BenchError(
            "--scale-over resolution needs sides of the input: --input-px 128,256,512."
        )
    return [replace(on_all(request), input_px=side) for side in options.input_px]


def _along(axis: Axis) -> Callable[[Finished], Told]:
    def tell(finished: Finished) -> Told:
        return told_curves(finished, axis, curves_of(finished, axis))

    return tell


def _step(result: Result, _: Record) -> int:
    assert result.request.checkpoint is not None
    return int(result.request.checkpoint.stem.removeprefix("step-"))


def _parameters(_: Result, record: Record) -> float:
    return float(str(record.facts["backbone_parameters"]))


def _side(_: Result, record: Record) -> float:
    return float(record.spec.view.px)


STEPS = Axis(
    name="pretraining steps",
    place=lambda result, record: float(_step(result, record)),
    word=lambda result, record: f"step {_step(result, record):,}",
    family=lambda result, _: result.request.backbone,
)
CAPACITY = Axis(
    name="parameters",
    place=_parameters,
    word=lambda _, record: label(record),
    family=lambda *_: "backbones",
)
RESOLUTION = Axis(
    name="side of the input (px)",
    place=_side,
    word=lambda _, record: f"{record.spec.view.px} px",
)
AXES = {
    "labels": Way(_labels, tell_of_labels, "fractions"),
    "steps": Way(_steps, _along(STEPS), "checkpoints"),
    "capacity": Way(lambda request, _: [on_all(request)], _along(CAPACITY)),
    "resolution": Way(_sides, _along(RESOLUTION), "input_px"),
}


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Report the stored runs on all training images that differ only in their input size.

    The other axes have no report here: the protocol `labels` has its own, records do not store
    which weights belong to one pretraining, and the figure of score against size shows capacity.
    """
    runs_on_all = [record for record in stored if record.spec.protocol.name in ON_ALL]
    groups = lines_of(runs_on_all, _without_pixels, lambda record: record.spec.subset("protocol"))
    reports = [AXES["resolution"].tell(recalled(group, stored, options)) for group in groups]
    return [report for report in reports if report.pictures]


def _without_pixels(record: Record) -> object:
    """Return the identity of the training of a run without its input size."""
    backbone = record.spec.backbone
    options = {name: value for name, value in backbone.options.items() if name != "input_px"}
    training = record.spec.subset("recipe", "ttt", "precision")
    return [backbone.name, backbone.weights, options, record.spec.view.kind, training]


def _backbones(options: SeriesOptions) -> Sequence[str]:
    return SIZES if options.scale_over == "capacity" else ()


SCALING = Series(
    name="scaling",
    runs=runs,
    tell=tell,
    options=("scale_over", "fractions", "draws", "checkpoints", "input_px"),
    backbones=_backbones,
    recall=recall,
    title="Score against labels, pretraining steps, parameters or the side of the input",
)
