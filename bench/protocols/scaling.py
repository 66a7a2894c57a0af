"""Scaling: the score against labels, pretraining steps, parameters or the side of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.board import BoardOptions, label, part
from bench.errors import BenchError
from bench.protocols._growth import Axis, curves_of, lines_of, tell_of_labels, told_curves
from bench.protocols._told import ON_ALL, on_all, recalled
from bench.record import Record
from bench.sheet import Told

if TYPE_CHECKING:
    from bench.grid import Finished, Result
    from bench.job import Request

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
SIZES = ("cmd-tiny", "cmd-s", "cmd-b", "cmd-l")


@dataclass(frozen=True)
class Way:
    """One axis: its runs, what it reads of the options, and how it is told."""

    runs: Callable[[Request, SeriesOptions], list[Request]]
    tell: Callable[[Finished], Told]
    reads: str = ""


def runs(request: Request, options: SeriesOptions) -> list[Request]:
    """Ask for the runs along an axis.

    Raises:
        BenchError: no such axis, or an option of another one.
    """
    if options.axis not in AXES:
        asked = f"no axis {options.axis!r}" if options.axis else "'scaling' needs an axis"
        raise BenchError(f"{asked}: --axis takes {', '.join(AXES)}.")
    for axis, way in AXES.items():
        several = way.reads != "input_px" or len(options.input_px) > 1
        if axis != options.axis and way.reads and getattr(options, way.reads) and several:
            raise BenchError(f"--{way.reads.replace('_', '-')} is for --axis {axis}.")
    return AXES[options.axis].runs(request, options)


def tell(finished: Finished) -> Told:
    """Tell the curves along the axis."""
    return AXES[finished.series.axis].tell(finished)


def _labels(request: Request, options: SeriesOptions) -> list[Request]:
    return [
        replace(request, protocol="labels", plan=replace(request.plan, fraction=each))
        for each in options.fractions or FRACTIONS
    ]


def _steps(request: Request, options: SeriesOptions) -> list[Request]:
    return [replace(on_all(request), checkpoint=path) for path in _series(options.checkpoints)]


def _series(folder: Path | None) -> list[Path]:
    """Find the checkpoints of a pretraining, oldest first."""
    if folder is None:
        raise BenchError("--axis steps needs the folder of a pretraining: --checkpoints DIR.")
    from bench.pretrain.checkpoint import all_of

    found = all_of(folder / "checkpoints") or all_of(folder)
    if not found:
        raise BenchError(
            f"there are no checkpoints step-N in {folder}. Give the --out of a `bench pretrain`."
        )
    return found


def _sides(request: Request, options: SeriesOptions) -> list[Request]:
    if len(options.input_px) < 2:
        raise BenchError("--axis resolution needs sides of the input: --input-px 128,256,512.")
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
    return float(str(part(record, "view")["px"]))


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
    word=lambda _, record: f"{part(record, 'view')['px']} px",
)
AXES = {
    "labels": Way(_labels, tell_of_labels, "fractions"),
    "steps": Way(_steps, _along(STEPS), "checkpoints"),
    "capacity": Way(lambda request, _: [on_all(request)], _along(CAPACITY)),
    "resolution": Way(_sides, _along(RESOLUTION), "input_px"),
}


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Tell of the runs of the store on all training images that differ in their pixels alone.

    The protocol `labels` recalls its own; that two files of weights are of one pretraining no
    record says, and the figure of score against size shows the capacities.
    """
    own = [each for each in stored if part(each, "protocol")["name"] in ON_ALL]
    sets = lines_of(own, _besides_pixels, lambda record: record.spec["protocol"])
    told = [AXES["resolution"].tell(recalled(each, stored, options)) for each in sets]
    return [each for each in told if each.pictures]


def _besides_pixels(record: Record) -> object:
    backbone, view = part(record, "backbone"), part(record, "view")
    asked = backbone["options"]
    assert isinstance(asked, dict)
    kept = {name: value for name, value in asked.items() if name != "input_px"}
    return [backbone["name"], backbone["weights"], kept, view["kind"]] + [
        record.spec[name] for name in ("recipe", "ttt", "precision")
    ]


def _backbones(options: SeriesOptions) -> Sequence[str]:
    return SIZES if options.axis == "capacity" else ()


SCALING = Series(
    name="scaling",
    runs=runs,
    tell=tell,
    options=("axis", "fractions", "draws", "checkpoints", "input_px"),
    backbones=_backbones,
    recall=recall,
    title="Score against labels, pretraining steps, parameters or the side of the input",
)
