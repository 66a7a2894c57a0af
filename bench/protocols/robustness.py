"""Robustness: one training, scored on the test images as they are and under each shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.board import BoardOptions, label, part
from bench.errors import BenchError
from bench.protocols._told import (
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
from bench.record import Record
from bench.sheet import Dots, Sheet, Told

if TYPE_CHECKING:
    from bench.grid import Finished
    from bench.job import Request


def runs(request: Request, options: SeriesOptions) -> list[Request]:
    """Ask for the clean run and one for each shift.

    Raises:
        BenchError: no such shift.
    """
    return [replace(on_all(request), shift=name) for name in ["", *_chosen(options.shifts)]]


def tell(finished: Finished) -> Told:
    """Tell the score under each shift and its difference to the clean run, paired by patient.

    p values are adjusted (Holm) over the shifts of one backbone, data set and head. The mean over
    shifts is taken image by image, so it has an interval like the others.
    """
    groups = grouped(
        finished.results,
        lambda _, record: (label(record), str(record.facts["dataset"]), head_of(record)),
    )
    table, plain, dots = [], [], []
    for words, runs_of in groups.items():
        records = {str(part(record, "scored")["shift"]): record for _, record in runs_of}
        rows = _rows(records, finished.metric)
        table += [[f"{' · '.join(words)} head", *row.text] for row in rows]
        named = dict(zip(("backbone", "dataset", "head"), words, strict=True))
        plain.append({**named, "shifts": [row.plain for row in rows]})
        bounds = [(row.name, row.mean, row.interval.low, row.interval.high) for row in rows]
        dots.append(Dots(f"{' · '.join(words)} head", finished.metric, bounds))
    title = f"{finished.metric} under shifts, and minus the clean run, paired by patient"
    columns = ["run", "shift", f"{finished.metric} [95 % interval]", "minus clean", "p", "Holm p"]
    return Told([Sheet(title, columns, table)], [], plain, dots=dots)


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Tell of the runs of the store that differ in their shift alone, the clean one first."""
    fixed = ("dataset", "backbone", "head", "recipe", "ttt", "view", "precision", "protocol")
    sets = on_all_runs(
        [each for each in stored if each.facts["dataset"] == each.facts["scored"]],
        lambda record: [record.spec[name] for name in (*fixed, "metrics_version")],
    )
    shifted = [each for each in sets if any(part(run, "scored")["shift"] for run in each)]
    return [tell(recalled(sorted(own, key=_shift), stored, options)) for own in shifted]


def _shift(record: Record) -> str:
    return str(part(record, "scored")["shift"])


def _rows(records: Mapping[str, Record], metric: str) -> list[Compared]:
    """Compare the shifts of one backbone, data set and head with the clean run, if it is there."""
    values = {name: means_of_images(record, metric) for name, record in records.items()}
    plain, some = values.pop("", None), next(iter(records.values()))
    first = [] if plain is None else [compared("clean", plain, some, None)]
    rows = adjusted([compared(name, own, some, plain) for name, own in values.items()])
    if len(rows) > 1:
        mean = np.mean(list(values.values()), axis=0)  # (n,)
        rows.append(compared("mean over shifts", mean, some, plain))
    return first + rows


def _chosen(asked: Sequence[str]) -> list[str]:
    """Give the shifts of these kinds or names; all where none is named."""
    from bench.shifts import SHIFTS

    kinds = list(dict.fromkeys(name.partition("-")[0] for name in SHIFTS))
    if unknown := [each for each in asked if each not in kinds and each not in SHIFTS]:
        raise BenchError(
            f"--shifts: there is no {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(kinds)}, and names such as {next(iter(SHIFTS))}."
        )
    return [name for name in SHIFTS if not asked or {name, name.partition("-")[0]} & set(asked)]


ROBUSTNESS = Series(
    name="robustness",
    runs=runs,
    tell=tell,
    options=("shifts",),
    recall=recall,
    title="One training, scored on clean images and on 15 shifts of stain, focus, light and scale",
)
