"""Scaling series: score against labels, pretraining steps, parameters or input size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.api.plugins import Report
from bench.api.record import Record
from bench.api.report import ReportOptions, SeriesReport
from bench.board.curves import Axis, curves_of, figure_of, report_curves, report_on_labels
from bench.board.reporting import is_on_all, on_all
from bench.board.scores import label
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.run_config import RunConfig

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
SIZES = ("cmd-tiny", "cmd-s", "cmd-b", "cmd-l")


@dataclass(frozen=True)
class ScalingAxis:
    """One axis of the series.

    Attributes:
        runs: returns the configs along the axis.
        report: reports the runs.
        reads: name of the option that only this axis reads.
    """

    runs: Callable[[RunConfig, SeriesOptions], list[RunConfig]]
    report: Report
    reads: str = ""


def runs(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return the configs along an axis.

    Raises:
        BenchError: unknown axis, or an option of another axis.
    """
    if options.scale_over not in AXES:
        problem = "'scaling' needs an axis"
        if options.scale_over:
            problem = f"unknown axis {options.scale_over!r}"
        raise BenchError(f"{problem}: --scale-over takes {', '.join(AXES)}.")
    for name, axis in AXES.items():
        if name == options.scale_over or not axis.reads:
            continue
        if axis.reads == "input_px" and len(options.input_px) == 1:
            continue  # one size applies to all runs of any axis
        if getattr(options, axis.reads):
            raise BenchError(f"--{axis.reads.replace('_', '-')} is for --scale-over {name}.")
    return AXES[options.scale_over].runs(config, options)


def report(
    records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
) -> SeriesReport:
    """Report the curves along the axis; of stored runs, along their input size.

    Stored runs have no other report here: the protocol `labels` has its own, records do not contain
    which weights belong to one pretraining, and the plot of score against size shows capacity.
    """
    return AXES[options.series.scale_over or "resolution"].report(records, stored, options)


def _labels(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    return [
        replace(config, protocol="labels", fraction=fraction)
        for fraction in options.fractions or FRACTIONS
    ]


def _steps(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return one config per checkpoint of a pretraining, oldest first."""
    from bench.models.checkpoints import all_of

    folder = options.checkpoints
    if folder is None:
        raise BenchError("--scale-over steps needs the folder of a pretraining: --checkpoints DIR.")
    checkpoints = all_of(folder / "checkpoints") or all_of(folder)
    if not checkpoints:
        raise BenchError(
            f"there are no checkpoints step-N in {folder}. Give the --out of a `bench pretrain`."
        )
    return [replace(on_all(config), checkpoint=path) for path in checkpoints]


def _sides(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    if len(options.input_px) < 2:
        raise BenchError(
            "--scale-over resolution needs sides of the input: --input-px 128,256,512."
        )
    view = config.view or "whole"  # tiles have the same resolution for any side
    return [replace(on_all(config), input_px=side, view=view) for side in options.input_px]


def _along(axis: Axis) -> Report:
    def report(
        records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
    ) -> SeriesReport:
        return report_curves(curves_of(records, axis, options.metric), axis, options.metric)

    return report


def _step(record: Record) -> int:
    """Return the pretraining step of the weights, from the name of the checkpoint."""
    match = re.search(r"step-(\d+)", str(record.facts["weights_source"]))
    assert match is not None, record.facts["weights_source"]
    return int(match[1])


def _without_pixels(record: Record) -> object:
    """Return the identity of the training of a run without its input size."""
    backbone = record.spec.backbone
    options = {name: value for name, value in backbone.options.items() if name != "input_px"}
    training = record.spec.subset("recipe", "ttt", "precision")
    return [backbone.name, backbone.weights, options, record.spec.view.kind, training]


STEPS = Axis(
    name="pretraining steps",
    place=lambda record: float(_step(record)),
    word=lambda record: f"step {_step(record):,}",
    family=lambda record: record.spec.backbone.name,
)
CAPACITY = Axis(
    name="parameters",
    place=lambda record: float(str(record.facts["backbone_parameters"])),
    word=label,
    family=lambda _: "backbones",
)
RESOLUTION = Axis(
    name="side of the input (px)",
    place=lambda record: float(record.spec.view.px),
    word=lambda record: f"{record.spec.view.px} px",
    line=_without_pixels,
)
AXES = {
    "labels": ScalingAxis(_labels, report_on_labels, "fractions"),
    "steps": ScalingAxis(_steps, _along(STEPS), "checkpoints"),
    "capacity": ScalingAxis(lambda config, _: [on_all(config)], _along(CAPACITY)),
    "resolution": ScalingAxis(_sides, _along(RESOLUTION), "input_px"),
}


def group_by(record: Record) -> object:
    """Return what stored runs on all training images in one plot share."""
    return figure_of(record, record.spec.protocol.options) if is_on_all(record) else None


def _backbones(options: SeriesOptions) -> Sequence[str]:
    return SIZES if options.scale_over == "capacity" else ()


SCALING = Series(
    name="scaling",
    runs=runs,
    report=report,
    options=("scale_over", "fractions", "draws", "checkpoints", "input_px"),
    backbones=_backbones,
    group_by=group_by,
    title="Score against labels, pretraining steps, parameters or the side of the input",
)
