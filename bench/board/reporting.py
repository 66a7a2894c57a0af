"""Building blocks of reports on several runs: groups of runs, scores and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bench.api.board import Difference, Interval
from bench.api.record import Record, canonical
from bench.api.report import DASH, Cell, p_cell
from bench.board.scores import scores_of_images
from bench.stats.bootstrap import shared_seed, summarise
from bench.stats.paired import holm, paired_difference

if TYPE_CHECKING:
    from bench.api.run_config import RunConfig

Key = TypeVar("Key", bound=Hashable)
ON_ALL = ("full", "linear-probe")  # with the linear head the two are the same training


@dataclass(frozen=True)
class Compared:
    """A mean score, and optionally its difference to another run on the same images.

    Attributes:
        holm_p: p value adjusted for all comparisons of the group.
    """

    name: str
    mean: float
    interval: Interval
    difference: Difference | None = None
    holm_p: float | None = None

    @property
    def cells(self) -> list[Cell | str]:
        """The table cells: score, difference, p value and adjusted p value."""
        score = Cell.of(self.mean, self.interval)
        if self.difference is None:
            return [score, DASH, DASH, DASH]
        difference = Cell.of(self.difference.mean, self.difference.interval)
        return [score, difference, p_cell(self.difference.p), p_cell(self.holm_p)]

    @property
    def bounds(self) -> tuple[str, float, float | None, float | None]:
        """The row of an `IntervalPlot`."""
        return self.name, self.mean, self.interval.low, self.interval.high

    @property
    def json(self) -> dict[str, object]:
        """The comparison as a JSON object."""
        return {
            "name": self.name,
            "mean": self.mean,
            "ci_low": self.interval.low,
            "ci_high": self.interval.high,
            "note": self.interval.note,
            "difference": self.difference and asdict(self.difference),
            "holm_p": self.holm_p,
        }


def compared(name: str, values: np.ndarray, record: Record, other: np.ndarray | None) -> Compared:
    """Return the mean score of a run with its interval, and its difference to other scores.

    Args:
        values: (n,) scores of the images of `record`.
        other: (n,) scores of the same images, or None.
    """
    patients, text = patients_of(record), seed_text(record)
    summary = summarise(values, patients, seed_text=text)
    difference = None
    if other is not None:
        difference = paired_difference(values, other, patients, seed_text=text)
    return Compared(name, float(values.mean()), summary.interval, difference)


def adjusted(rows: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons with p values adjusted for their number (Holm)."""
    differences = [row.difference for row in rows if row.difference is not None]
    p_values = iter(holm([1.0 if diff.p is None else diff.p for diff in differences]))
    return [row if row.difference is None else replace(row, holm_p=next(p_values)) for row in rows]


def on_all(config: RunConfig) -> RunConfig:
    """Return the config with the protocol that trains on all training images."""
    if config.head == "linear":
        return replace(config, protocol="linear-probe", head=None)
    return replace(config, protocol="full")


def grouped(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Group runs by a key; groups and runs keep their order."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def is_on_all(record: Record) -> bool:
    """Return whether a run was trained on all training images."""
    return record.spec.protocol.name in ON_ALL


def stored_groups(
    records: Sequence[Record], group_by: Callable[[Record], object]
) -> list[list[Record]]:
    """Group stored runs by a key of JSON values; runs with the key None are left out."""
    keys = ((record, group_by(record)) for record in records)
    groups: dict[bytes, list[Record]] = {}
    for record, key in keys:
        if key is not None:
            groups.setdefault(canonical({"key": key}), []).append(record)
    return [*groups.values()]


def head_of(record: Record) -> str:
    """Return the name of the head of a run."""
    return record.spec.head.name


def patients_of(record: Record) -> list[str]:
    """Return the patient of each image, images sorted by id."""
    return [record.patients[image] for image in record.images]


def image_scores(record: Record, name: str) -> np.ndarray:
    """Return a score of each image, (draws, n), or (n,) without few-shot draws."""
    grid = scores_of_images(record, name)
    return grid if any(trial.draw for trial in record.trials) else grid[0]


def means_of_images(record: Record, name: str) -> np.ndarray:
    """Return a score of each image, averaged over few-shot draws, (n,)."""
    return np.atleast_2d(image_scores(record, name)).mean(axis=0)


def seed_text(record: Record) -> str:
    """Return the seed of the resamples of a run: see `bench.stats.bootstrap.shared_seed`."""
    return shared_seed(record.spec.scored.sha256, record.images)


def scored_alike(a: Record, b: Record) -> bool:
    """Return whether two runs were scored on the same images."""
    return a.images == b.images and a.spec.scored == b.spec.scored


def on_all_alike(record: Record, stored: Sequence[Record], same: Sequence[str]) -> list[Record]:
    """Return the stored runs on all training images that match a run, latest last.

    Args:
        stored: candidates, oldest first.
        same: parts of the identity that must be equal, besides folds and seed.
    """
    protocol = record.spec.protocol
    return [
        candidate
        for candidate in stored
        if is_on_all(candidate)
        and (candidate.spec.protocol.folds, candidate.spec.protocol.seed)
        == (protocol.folds, protocol.seed)
        and candidate.spec.subset(*same) == record.spec.subset(*same)
    ]
