"""Robustness series: one training, scored on clean test images and under each shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.report import Dots, Sheet, Told
from bench.board.scores import label
from bench.errors import BenchError
from bench.protocols._reporting import (
    Compared,
    adjusted,
    compared,
    grouped,
    head_of,
    means_of_images,
    on_all,
    on_all_runs,
    recalled,
)

if TYPE_CHECKING:
    from bench.api.config import RunConfig
    from bench.api.report import Finished


def runs(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return the request of the clean run and one request per shift.

    Raises:
        BenchError: unknown shift.
    """
    return [replace(on_all(request), shift=name) for name in ["", *_select(options.shifts)]]


def tell(finished: Finished) -> Told:
    """Report the score under each shift and its difference to the clean run, paired by patient.

    p values are adjusted (Holm) over the shifts of one backbone, data set and head. The mean over
    shifts is computed per image, so it has an interval like the others.
    """
    groups = grouped(
        finished.results,
        lambda _, record: (label(record), str(record.facts["dataset"]), head_of(record)),
    )
    table, plain, dots = [], [], []
    for (backbone, dataset, head), results in groups.items():
        records = {_shift(record): record for _, record in results}
        rows = _rows(records, finished.metric)
        name = f"{backbone} · {dataset} · {head} head"
        table += [[name, *row.text] for row in rows]
        shifts = [row.plain for row in rows]
        plain.append({"backbone": backbone, "dataset": dataset, "head": head, "shifts": shifts})
        bounds = [(row.name, row.mean, row.interval.low, row.interval.high) for row in rows]
        dots.append(Dots(name, finished.metric, bounds))
    title = f"{finished.metric} under shifts, and minus the clean run, paired by patient"
    columns = ["run", "shift", f"{finished.metric} [95 % interval]", "minus clean", "p", "Holm p"]
    return Told([Sheet(title, columns, table)], [], plain, dots=dots)


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Report the stored runs, in groups that differ only in their shift, clean run first."""
    fixed = ("dataset", "backbone", "head", "recipe", "ttt", "view", "precision", "protocol")
    groups = on_all_runs(
        [record for record in stored if record.facts["dataset"] == record.facts["scored"]],
        lambda record: record.spec.subset(*fixed, "metrics_version"),
    )
    shifted = [records for records in groups if any(map(_shift, records))]
    return [tell(recalled(sorted(records, key=_shift), stored, options)) for records in shifted]


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
    tell=tell,
    options=("shifts",),
    recall=recall,
    title="One training, scored on clean images and on 15 shifts of stain, focus, light and scale",
)
