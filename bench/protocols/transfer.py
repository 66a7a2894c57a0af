"""Transfer: trained on one data set, scored on the test images of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.board import BoardOptions, label, part
from bench.errors import BenchError
from bench.protocols._told import (
    ON_ALL,
    compared,
    head_of,
    means_of_images,
    on_all_runs,
    recalled,
    scored_alike,
)
from bench.record import Record
from bench.sheet import Dots, Sheet, Told, decimals

if TYPE_CHECKING:
    from bench.grid import Finished
    from bench.job import Request

ALIKE = ("head", "recipe", "ttt", "precision")  # of the identity, besides backbone and weights


def runs(request: Request, options: SeriesOptions) -> list[Request]:
    """Ask for a run on each target.

    Raises:
        BenchError: no target, or the data set itself.
    """
    if not options.to:
        raise BenchError("'transfer' needs the sets that are scored: --to NAME.")
    if request.dataset in options.to:
        raise BenchError(
            f"--to {request.dataset}: that is the set that is trained on. Use --protocol full."
        )
    return [replace(request, protocol="full", to=name) for name in options.to]


def tell(finished: Finished) -> Told:
    """Tell the scores on the targets, beside those of the runs that were trained there.

    Such a run is looked for in the store: of the same backbone and weights, head and recipe, on all
    training images of the target. Where it was scored on the same images, the difference is paired.
    """
    table, plain = [], []
    drawn: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
    for record in filter(None, (result.record for result in finished.results)):
        home = _at_home(record, finished.stored)
        there = None if home is None else means_of_images(home, finished.metric)
        paired = home is not None and scored_alike(home, record)
        values = means_of_images(record, finished.metric)
        own = compared(str(record.facts["scored"]), values, record, there if paired else None)
        _, score, gap, p, _ = own.text
        mean = None if there is None else float(there.mean())
        words = [label(record), str(record.facts["dataset"]), own.name, head_of(record)]
        way = f"{words[1]} to {own.name} · {words[3]} head"
        bounds = own.interval.low, own.interval.high
        drawn.setdefault(way, []).append((words[0], own.mean, *bounds))
        table.append([*words, score, decimals(mean), gap, p])
        named = {"backbone": words[0], "trained_on": words[1], "head": words[3]}
        at_home = {"in_domain": home and home.run_id, "in_domain_mean": mean}
        plain.append({**named, **own.plain, **at_home})
    columns = ["backbone", "trained on", "scored on", "head", f"{finished.metric} [95 % interval]"]
    columns += ["trained there", "minus it", "p"]
    title = f"{finished.metric} on other data, and minus the run that was trained there, paired"
    dots = [Dots(way, finished.metric, rows) for way, rows in drawn.items()]
    return Told([Sheet(title, columns, table, words=4, grouped=False)], [], plain, dots=dots)


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Tell of the runs of the store that were trained on one data set and scored on another."""
    moved = [
        each
        for each in stored
        if part(each, "scored")["sha256"] != part(each, "dataset")["sha256"]
        and not part(each, "scored")["shift"]
    ]
    fixed = ("dataset", "scored", "head", "protocol", "metrics_version")
    sets = on_all_runs(moved, lambda record: [record.spec[name] for name in fixed])
    return [tell(recalled(own, stored, options)) for own in sets]


def _at_home(record: Record, stored: Sequence[Record]) -> Record | None:
    """Find the run that was trained on the set that is scored: the latest on the same images."""
    alike = [
        each
        for each in stored
        if part(each, "protocol")["name"] in ON_ALL
        and _source(each) == _source(record)
        and all(each.spec[name] == record.spec[name] for name in ALIKE)
        and part(each, "protocol")["seed"] == part(record, "protocol")["seed"]
        and part(each, "dataset")["sha256"] == part(record, "scored")["sha256"]
        and part(each, "dataset")["limit"] == part(record, "dataset")["limit"]
        and each.spec["scored"] == record.spec["scored"]
    ]
    return max(alike, key=lambda each: scored_alike(each, record), default=None)


def _source(record: Record) -> tuple[object, ...]:
    """Give the backbone, its weights and options; the side of the input is the data set's."""
    own = part(record, "backbone")
    options = own["options"]
    assert isinstance(options, dict)
    kept = {name: value for name, value in options.items() if name != "input_px"}
    return own["name"], own["weights"], kept, part(record, "view")["kind"]


TRANSFER = Series(
    name="transfer",
    runs=runs,
    tell=tell,
    options=("to",),
    recall=recall,
    title="Any head, trained on one data set and scored on the test images of others",
)
