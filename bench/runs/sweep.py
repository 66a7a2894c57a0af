"""Read the options of runs from a TOML file, and estimate what the runs of a grid need."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.api.options import convert, options
from bench.api.record import Record
from bench.api.report import Table
from bench.api.run_config import RunConfig
from bench.board.data_notes import data_notes
from bench.board.scores import dataset_name
from bench.board.select import read_all
from bench.errors import BenchError
from bench.features.views import View
from bench.runs.grid import protocol_name
from bench.runs.input_size import data_facts, with_view
from bench.runs.memory import Training, peak_bytes
from bench.runs.resolve import fit_to
from bench.runs.session import Session
from bench.runs.trial_plan import planned, protocol_of
from bench.store.results import Store


@dataclass(frozen=True)
class PlannedCell:
    """The resources that a planned run needs.

    Attributes:
        config: with its number of folds and its view.
        dataset: name of the training data set.
        head: name of the head that the run trains.
        features: identifies the features; runs with equal features share them.
        cache_bytes: size of the cached features of all images; 0 if the run caches none.
        peak_bytes: estimated peak memory of the process; None if it is not known.
        seconds: median over stored runs of this backbone, data set and protocol; None if there are
            none.
        facts: see `bench.runs.input_size.data_facts`.
    """

    config: RunConfig
    dataset: str
    head: str
    view: View
    features: str
    cache_bytes: int
    peak_bytes: int | None
    seconds: float | None
    facts: Mapping[str, object]


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file whose keys are options of `bench run`, as values by field of `RunConfig`.

    A list becomes a tuple; see `bench.api.Grid.of`.

    Raises:
        BenchError: the file is no TOML, a key is unknown, or a value has another type.
    """
    try:
        body = tomllib.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise BenchError(f"{path} cannot be read as TOML: {error}") from error
    known = {option.flag[2:]: option for option in options(RunConfig).values()}
    values = {key.replace("_", "-"): value for key, value in body.items()}
    if unknown := sorted(values.keys() - known.keys()):
        raise BenchError(f"{path}: no option {', '.join(unknown)}. Options: {', '.join(known)}.")
    if not values:
        raise BenchError(f'{path} has no options: write `backbone = ["A", "B"]` and the like.')
    try:
        return {known[key].name: convert(known[key], value) for key, value in values.items()}
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from error


def cells_of(configs: Sequence[RunConfig], session: Session, store: Store) -> list[PlannedCell]:
    """Estimate what runs need, without reading weights.

    Raises:
        BenchError: the parts of a run do not fit each other.
    """
    before = _seconds(read_all(store.root)[0], store)
    return [_cell(config, session, before) for config in configs]


def _cell(
    config: RunConfig, session: Session, before: Mapping[tuple[str, ...], list[float]]
) -> PlannedCell:
    protocol, handle = protocol_of(config), session.dataset(config.dataset)
    target = session.dataset(config.target_dataset) if config.target_dataset else handle
    config, trials = planned(config, protocol, handle, target)
    config = with_view(config, handle, target, session)
    opened = session.shape(config, handle.dataset)
    extractor = opened.extractor
    recipe, head, side = fit_to(config, protocol, opened, handle.dataset)
    view = View(config.view or "whole", side)
    training = Training(head, extractor, recipe, view, trials)
    frozen = not any(each.requires_grad for each in extractor.parameters())
    strides = zip(extractor.channels, extractor.strides, strict=True)
    values = sum(channels * (view.px // stride) ** 2 for channels, stride in strides)
    patches = sum(view.patches(*sample.size) if sample.size else 1 for sample in handle.samples)
    name = config.backbone.partition("@")[0]
    times = before.get((name, handle.name, config.protocol))
    return PlannedCell(
        config=config,
        dataset=handle.name,
        head=head.name,
        view=view,
        features=repr((config.backbone, config.checkpoint, config.dataset, view)),
        cache_bytes=2 * values * patches if frozen else 0,
        peak_bytes=peak_bytes(training, patches),
        seconds=median(times) if times else None,
        facts=data_facts(handle, target, view),
    )


def _seconds(records: Sequence[Record], store: Store) -> dict[tuple[str, ...], list[float]]:
    """Collect the seconds of stored runs by backbone, data set and protocol."""
    seconds: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        parts = store.context(record.run_id).get("seconds", {})
        key = (
            record.spec.backbone.name,
            dataset_name(record),
            record.spec.protocol.name,
        )
        seconds.setdefault(key, []).append(sum(parts.values()))
    return seconds


def plan_table(cells: Sequence[PlannedCell]) -> Table:
    """Build a table with one row per planned run."""
    columns = [
        "backbone",
        "data set",
        "protocol",
        "head",
        "input",
        "features MiB",
        "peak GiB",
        "seconds",
    ]
    rows = [
        [
            each.config.backbone,
            each.config.dataset,
            protocol_name(each.config),
            each.head,
            f"{each.view.kind} {each.view.px}",
            f"{each.cache_bytes / 2**20:.1f}",
            "not known" if each.peak_bytes is None else f"{each.peak_bytes / 2**30:.1f}",
            "not known" if each.seconds is None else f"{each.seconds:.0f}",
        ]
        for each in cells
    ]
    return Table(f"{len(cells)} runs", columns, rows)


def remarks(cells: Sequence[PlannedCell]) -> list[str]:
    """Return sentences on default folds and on images that are resized much."""
    return data_notes((each.dataset, each.config.folds or 0, each.facts) for each in cells)


def summed(cells: Sequence[PlannedCell]) -> dict[str, object]:
    """Return the sums of a plan; runs with equal features share them."""
    features = {each.features: each.cache_bytes for each in cells}
    peaks = [each.peak_bytes for each in cells if each.peak_bytes is not None]
    known = [each.seconds for each in cells if each.seconds is not None]
    return {
        "runs": len(cells),
        "feature_bytes": sum(features.values()),
        "peak_bytes": max(peaks, default=None),
        "runs_timed": len(known),
        "seconds_of_timed": sum(known),
    }


def line(plan: Mapping[str, Any]) -> str:
    """Describe the sums of a plan."""
    runs, timed = plan["runs"], plan["runs_timed"]
    peak = "not known" if plan["peak_bytes"] is None else f"{plan['peak_bytes'] / 2**30:.1f} GiB"
    time = f"{plan['seconds_of_timed']:.0f} s for {timed} of {runs} runs, from" if timed else "no"
    return (
        f"features: {plan['feature_bytes'] / 2**20:.1f} MiB at most, cached once per backbone and "
        f"data set; memory: {peak} on a CPU; time: {time} stored runs of the same backbone, data "
        "set and protocol"
    )
