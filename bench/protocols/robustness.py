"""Robustness series: one training, scored on clean test images and under each shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.api.record import Record
from bench.api.report import Cell, IntervalPlot, ReportOptions, SeriesReport, Table
from bench.board.reporting import (
    Compared,
    adjusted,
    compared,
    grouped,
    head_of,
    is_on_all,
    means_of_images,
    on_all,
)
from bench.board.scores import label
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.run_config import RunConfig

FIXED = (  # what the runs of one report share
    *("dataset", "backbone", "head", "recipe", "ttt", "view", "precision", "protocol"),
    "metrics_version",
)


def runs(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return the config of the clean run and one config per shift.

    Raises:
        BenchError: unknown shift.
    """
    return [replace(on_all(config), shift=name) for name in ["", *_select(options.shifts)]]


def report(
    records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
) -> SeriesReport:
    """Report the score under each shift and its difference to the clean run, paired by patient.

    p values are adjusted (Holm) over the shifts of one backbone, data set and head. The mean over
    shifts is computed per image, so it has an interval like the others. The report is empty without
    a run under a shift.
    """
    if not any(map(_shift, records)):
        return SeriesReport()
    groups = grouped(
        sorted(records, key=_shift),  # stable, and the clean run comes first
        lambda record: (label(record), str(record.facts["dataset"]), head_of(record)),
    )
    table: list[list[Cell | str]] = []
    objects, plots = [], []
    for (backbone, dataset, head), runs_of_group in groups.items():
        rows = _rows({_shift(record): record for record in runs_of_group}, options.metric)
        name = f"{backbone} · {dataset} · {head} head"
        table += [[name, row.name, *row.cells] for row in rows]
        shifts = [row.json for row in rows]
        objects.append({"backbone": backbone, "dataset": dataset, "head": head, "shifts": shifts})
        plots.append(IntervalPlot(name, options.metric, [row.bounds for row in rows]))
    title = f"{options.metric} under shifts, and minus the clean run, paired by patient"
    columns = ["run", "shift", f"{options.metric} [95 % interval]", "minus clean", "p", "Holm p"]
    return SeriesReport([Table(title, columns, table, grouped=True)], (), objects, intervals=plots)


def group_by(record: Record) -> object:
    """Return what stored runs that differ only in their shift share."""
    is_transferred = record.facts["dataset"] != record.facts["scored"]
    if is_transferred or not is_on_all(record):
        return None
    return record.spec.subset(*FIXED)


def _shift(record: Record) -> str:
    return record.spec.scored.shift


def _rows(records: Mapping[str, Record], metric: str) -> list[Compared]:
    """Return the scores under shifts, with their differences to the clean run if it exists."""
    values = {shift: means_of_images(record, metric) for shift, record in records.items()}
    clean, any_run = values.pop("", None), next(iter(records.values()))
    rows = adjusted([compared(shift, scores, any_run, clean) for shift, scores in values.items()])
    if len(rows) > 1:
        mean = np.mean(list(values.values()), axis=0)  # (n,)
        rows.append(compared("mean over shifts", mean, any_run, clean))
    if clean is not None:
        rows.insert(0, compared("clean", clean, any_run, None))
    return rows


def _select(words: Sequence[str]) -> list[str]:
    """Return the shifts with these names or kinds; all shifts without words."""
    from bench.data.shifts import SHIFTS

    kinds = list(dict.fromkeys(name.partition("-")[0] for name in SHIFTS))
    if unknown := [word for word in words if word not in kinds and word not in SHIFTS]:
        raise BenchError(
            f"--shifts: unknown {', '.join(map(repr, unknown))}. Choose from {', '.join(kinds)}, "
            f"or names such as {next(iter(SHIFTS))}."
        )
    if not words:
        return list(SHIFTS)
    return [name for name in SHIFTS if name in words or name.partition("-")[0] in words]


ROBUSTNESS = Series(
    name="robustness",
    runs=runs,
    report=report,
    options=("shifts",),
    group_by=group_by,
    title="One training, scored on clean images and on 15 shifts of stain, focus, light and scale",
)
