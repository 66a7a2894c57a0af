"""What the series share: runs on all training images, their groups, and scores image by image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from bench.board import BoardOptions, part, scores_of_images
from bench.differences import Difference, holm, paired_difference
from bench.record import Record, canonical
from bench.sheet import bracketed, p_value
from bench.stats import Interval, interval, shared_seed

if TYPE_CHECKING:
    from bench.grid import Finished, Result
    from bench.job import Request

Key = TypeVar("Key", bound=Hashable)
ON_ALL = ("full", "linear-probe")  # one training, two names: with the linear head they are the same


@dataclass(frozen=True)
class Committed:
    """A run of the store, in the place of one that has just ended."""

    record: Record


@dataclass(frozen=True)
class Recalled:
    """Runs of the store, told as those of a command are: see `bench.grid.Finished`."""

    results: Sequence[Committed]
    stored: Sequence[Record]
    metric: str


@dataclass(frozen=True)
class Compared:
    """A score, and where there is one, its difference to another run on the same images.

    Attributes:
        holm_p: p adjusted for all comparisons of the group.
    """

    name: str
    mean: float
    interval: Interval
    difference: Difference | None = None
    holm_p: float | None = None

    @property
    def text(self) -> list[str]:
        """Write it as cells: the name, the score, the difference, p and the adjusted p."""
        score, own = bracketed(self.mean, self.interval), self.difference
        if own is None:
            return [self.name, score, "–", "–", "–"]
        gap = bracketed(own.mean, own.interval)
        return [self.name, score, gap, p_value(own.p), p_value(self.holm_p)]

    @property
    def plain(self) -> dict[str, object]:
        """Give it as JSON takes it."""
        bounds = {"ci_low": self.interval.low, "ci_high": self.interval.high}
        own = {"name": self.name, "mean": self.mean, **bounds, "note": self.interval.note}
        return own | {
            "difference": self.difference and asdict(self.difference),
            "holm_p": self.holm_p,
        }


def compared(name: str, values: np.ndarray, record: Record, other: np.ndarray | None) -> Compared:
    """Bound the scores (n,) of the images of a run, and their difference to others (n,)."""
    patients, text = patients_of(record), seed_text(record)
    bounds = interval(values, patients, seed_text=text)
    gap = None if other is None else paired_difference(values, other, patients, seed_text=text)
    return Compared(name, float(values.mean()), bounds, gap)


def adjusted(rows: Sequence[Compared]) -> list[Compared]:
    """Adjust the p values of some comparisons for their number (Holm)."""
    tested = [row for row in rows if row.difference is not None]
    p = [row.difference.p for row in tested if row.difference is not None]
    known = iter(holm([1.0 if each is None else each for each in p]))
    return [row if row.difference is None else replace(row, holm_p=next(known)) for row in rows]


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
    grid = scores_of_images(record, name)
    return grid if any(trial.draw for trial in record.trials) else grid[0]


def means_of_images(record: Record, name: str) -> np.ndarray:
    """Give one score of each image, averaged over draws: (n,)."""
    return np.atleast_2d(image_scores(record, name)).mean(axis=0)


def seed_text(record: Record) -> str:
    """Name the resamples that all runs on these images share."""
    return shared_seed(str(part(record, "scored")["sha256"]), record.images)


def recalled(
    records: Sequence[Record], stored: Sequence[Record], options: BoardOptions
) -> Finished:
    """Hand runs of the store to a teller that looks at the records alone."""
    return cast("Finished", Recalled([*map(Committed, records)], stored, options.metric))


def on_all_runs(stored: Sequence[Record], key: Callable[[Record], object]) -> list[list[Record]]:
    """Group the runs of the store on all training images by what they share."""
    groups: dict[bytes, list[Record]] = {}
    for record in stored:
        if part(record, "protocol")["name"] in ON_ALL:
            groups.setdefault(canonical({"": key(record)}), []).append(record)
    return [*groups.values()]


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
