"""What the series share: runs on all training images, their groups, and scores image by image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bench.board import metric_of, part
from bench.record import Record
from bench.stats import shared_seed

if TYPE_CHECKING:
    from bench.grid import Result
    from bench.job import Request

Key = TypeVar("Key", bound=Hashable)
ON_ALL = ("full", "linear-probe")  # one training, two names: with the linear head they are the same


def on_all(request: Request) -> Request:
    """Ask for a run on all training images, with the head that was asked for."""
    if request.head == "linear":
        return replace(request, protocol="linear-probe", head=None)
    return replace(request, protocol="full")


def grouped(
    results: Iterable[Result], key: Callable[[Result, Record], Key]
) -> dict[Key, list[tuple[Result, Record]]]:
    """Group the results that have a record, in their order."""
    groups: dict[Key, list[tuple[Result, Record]]] = {}
    for result in results:
        if result.record is not None:
            groups.setdefault(key(result, result.record), []).append((result, result.record))
    return groups


def head_of(record: Record) -> str:
    """Name the head of a run."""
    return str(part(record, "head")["name"])


def patients_of(record: Record) -> list[str]:
    """Give the patient of each image, images sorted by id."""
    return [record.patients[image] for image in record.images]


def image_scores(record: Record, name: str) -> np.ndarray:
    """Give one score of a run: (draws, n), or (n,) where there are no draws."""
    grid = record.scores(metric_of(name), name)
    return grid if any(trial.draw for trial in record.trials) else grid[0]


def seed_text(record: Record) -> str:
    """Name the resamples that all runs on these images share."""
    return shared_seed(str(part(record, "scored")["sha256"]), record.images)


def scored_alike(a: Record, b: Record) -> bool:
    """Tell whether two runs were scored on the same images."""
    return a.images == b.images and a.spec["scored"] == b.spec["scored"]


def on_all_alike(record: Record, stored: Sequence[Record], same: Sequence[str]) -> list[Record]:
    """Find the runs on all training images that are like a run, the latest last.

    Args:
        stored: where to look, oldest first.
        same: the parts of the identity that must be equal, besides folds and seed.
    """
    own = part(record, "protocol")
    return [
        each
        for each in stored
        if part(each, "protocol")["name"] in ON_ALL
        and all(part(each, "protocol")[name] == own[name] for name in ("folds", "seed"))
        and all(each.spec[name] == record.spec[name] for name in same)
    ]
