"""Grids in files: what a TOML file asks for, and what its cells would take before they are run."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import NoneType
from typing import Any, get_args, get_type_hints

from bench import registry
from bench.api.experiment import Request
from bench.api.record import Record
from bench.api.report import Table
from bench.board.scores import dataset_name
from bench.board.select import read_all
from bench.cli.run import run
from bench.errors import BenchError
from bench.runs.grid import protocol_name
from bench.runs.options import SEVERAL
from bench.runs.resolve import head_name, side_of
from bench.runs.session import Session
from bench.store.results import Store

NOT_OF_A_CELL = ("results", "data", "cache", "force", "save_masks", "plot", "as_json")


@dataclass(frozen=True)
class Cell:
    """What a run would take.

    Attributes:
        head: that it trains: the protocol's, the one asked for, or the backbone's own.
        cache_bytes: of the features of all images of its data set; 0 where none are kept.
        seconds: the median of the committed runs of this backbone, data set and protocol; None
            where there are none.
    """

    request: Request
    head: str
    side_px: int
    features: str
    cache_bytes: int
    seconds: float | None


def read(path: Path) -> dict[str, Any]:
    """Read a file whose keys are the options of `bench run`; lists stand where those take A,B,...

    Returns:
        The options that the file names, as `bench run` takes them.

    Raises:
        BenchError: the file is no TOML, a key is unknown, or a value is of another kind.
    """
    try:
        body = tomllib.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise BenchError(f"{path} cannot be read as TOML: {error}") from error
    told = {key.replace("-", "_"): value for key, value in body.items()}
    known = [name for name in usual() if name not in NOT_OF_A_CELL]
    if unknown := sorted(told.keys() - set(known)):
        names = ", ".join(name.replace("_", "-") for name in known)
        raise BenchError(f"{path}: no option {', '.join(unknown)}. A grid knows {names}.")
    if not told:
        raise BenchError(f'{path} asks for nothing: write `backbone = ["A", "B"]` and the like.')
    kinds = get_type_hints(run)
    return {name: _value(path, name, own, kinds[name]) for name, own in told.items()}


def usual() -> dict[str, Any]:
    """Give all options of `bench run` as they are where nobody names them."""
    options = inspect.signature(run).parameters.items()
    return {name: each.default for name, each in options if name != "context"}


def _value(path: Path, name: str, given: object, kind: Any) -> object:
    """Bring a value of the file into the form that the command line gives it."""
    wanted = tuple(each for each in get_args(kind) or (kind,) if each is not NoneType)
    if name in SEVERAL:
        values = given if isinstance(given, list) else [given]
        allowed = (int, float) if SEVERAL[name] is float else SEVERAL[name]
        if values and all(type(each) is not bool and isinstance(each, allowed) for each in values):
            return ",".join(map(str, values))
    elif name in ("option", "ttt_option") and isinstance(given, dict):
        return [f"{key}={value}" for key, value in given.items()]
    elif Path in wanted and isinstance(given, str):
        return Path(given)
    elif float in wanted and type(given) in (int, float):
        return float(given)  # type: ignore[arg-type]
    elif type(given) in wanted:
        return given
    raise BenchError(
        f"{path}: {name} = {given!r} does not fit: `bench run --help` tells what it takes."
    )


def cells_of(requests: Sequence[Request], session: Session, store: Store) -> list[Cell]:
    """Tell what cells would take; no weights are read.

    Raises:
        BenchError: a cell does not fit its parts.
    """
    before = _seconds(read_all(store.root)[0], store)
    return [_cell(request, session, before) for request in requests]


def _cell(
    request: Request, session: Session, before: Mapping[tuple[str, ...], list[float]]
) -> Cell:
    handle = session.dataset(request.dataset)
    opened = session.shape(request, handle.dataset)
    extractor = opened.extractor
    side = side_of(request, opened, handle.dataset)
    frozen = not any(each.requires_grad for each in extractor.parameters())
    strides = zip(extractor.channels, extractor.strides, strict=True)
    values = sum(channels * (side // stride) ** 2 for channels, stride in strides)
    kept = frozen and request.view == "whole"
    name = request.backbone.partition("@")[0]
    times = before.get((name, handle.name, request.protocol))
    return Cell(
        request=request,
        head=head_name(request, registry.get("protocols", request.protocol), opened),
        side_px=side,
        features=repr((request.backbone, request.checkpoint, request.dataset, side)),
        cache_bytes=2 * values * len(handle.samples) if kept else 0,
        seconds=median(times) if times else None,
    )


def _seconds(records: Sequence[Record], store: Store) -> dict[tuple[str, ...], list[float]]:
    """Collect the seconds of committed runs by backbone, data set and protocol."""
    found: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        parts = store.context(record.run_id).get("seconds", {})
        key = (
            record.spec.backbone.name,
            dataset_name(record),
            record.spec.protocol.name,
        )
        found.setdefault(key, []).append(sum(parts.values()))
    return found


def plan_table(cells: Sequence[Cell]) -> Table:
    """Build a table with one row per planned run."""
    columns = ["backbone", "data set", "protocol", "head", "input", "features MiB", "seconds"]
    rows = [
        [
            each.request.backbone,
            each.request.dataset,
            protocol_name(each.request),
            each.head,
            str(each.side_px),
            f"{each.cache_bytes / 2**20:.1f}",
            "not known" if each.seconds is None else f"{each.seconds:.0f}",
        ]
        for each in cells
    ]
    return Table(f"{len(cells)} runs", columns, rows)


def summed(cells: Sequence[Cell]) -> dict[str, object]:
    """Sum up a plan: features of the same backbone and data set are kept once."""
    features = {each.features: each.cache_bytes for each in cells}
    known = [each.seconds for each in cells if each.seconds is not None]
    return {
        "runs": len(cells),
        "feature_bytes": sum(features.values()),
        "runs_timed": len(known),
        "seconds_of_timed": sum(known),
    }


def line(plan: Mapping[str, Any]) -> str:
    """Say the sum in words."""
    runs, timed = plan["runs"], plan["runs_timed"]
    time = f"{plan['seconds_of_timed']:.0f} s for {timed} of {runs} runs, by" if timed else "no"
    return (
        f"features: {plan['feature_bytes'] / 2**20:.1f} MiB at most, kept once a backbone and data "
        f"set; time: {time} committed runs of the same backbone, data set and protocol"
    )
