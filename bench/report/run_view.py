"""What the page of one run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench import board
from bench.board import Row, lower_is_better, scores_of_images
from bench.command import of_record
from bench.record import Record
from bench.report.gathering import Gathered
from bench.report.overlays import overlays
from bench.report.words import plain

ON_MACHINE = ("file ", "cache ")  # how the source of weights begins that lie on the user's machine


@dataclass(frozen=True)
class ImageTable:
    """Scores of each image, averaged over draws, the worst first.

    Attributes:
        sorted: the order of the first score, as aria-sort takes it.
    """

    names: Sequence[str]
    sorted: str
    rows: Sequence[tuple[str, str, Sequence[float]]]


def context(row: Row, gathered: Gathered, data: Path | None, *, every: bool) -> dict[str, object]:
    """Give what the template of a run shows.

    Args:
        every: all scores that the run holds counts for, not those of the board alone.
    """
    record, options = row.record, gathered.options
    more = [name for name in board.counted(record) if name not in row.scores] if every else []
    scores = {**row.scores, **board.scores(record, more, options)}
    notes = {own.summary.interval.note for own in scores.values()} - {""}
    known = gathered.store.context(record.run_id)
    return {
        "scores": scores,
        "legend": [
            each if each.startswith("no interval") else f"? {each}" for each in sorted(notes)
        ],
        "metric": options.metric,
        "overlays": overlays(record, gathered.store, data, metric=options.metric),
        "table": image_table(record, list(row.scores)),
        "command": of_record(record),
        "moved": _is_of_a_series(record),
        "asked": _flat(record.spec),
        "facts": {name: plain(_placeless(own)) for name, own in sorted(record.facts.items())},
        "made_by": {name: known[name] for name in ("bench", "torch", "timm") if known.get(name)},
    }


def image_table(record: Record, names: Sequence[str]) -> ImageTable:
    """Score every image."""
    columns = [scores_of_images(record, name).mean(axis=0).tolist() for name in names]
    rows = [
        (image, record.patients[image], values)
        for image, *values in zip(record.images, *columns, strict=True)
    ]
    falls = lower_is_better(names[0])
    rows.sort(key=lambda row: (-row[2][0] if falls else row[2][0], row[0]))
    return ImageTable(names, "descending" if falls else "ascending", rows)


def _is_of_a_series(record: Record) -> bool:
    shift = board.part(record, "scored")["shift"]
    return bool(shift) or record.facts["scored"] != record.facts["dataset"]


def _flat(spec: Mapping[str, object]) -> dict[str, str]:
    """Give what was asked a line each: a part of the identity in words."""
    return {name: plain(_placeless(own)) for name, own in sorted(spec.items())}


def _placeless(value: object) -> object:
    """Leave of a file of weights its name alone."""
    if not isinstance(value, str) or not value.startswith(ON_MACHINE):
        return value
    kind, _, place = value.partition(" ")
    return f"{kind} {PureWindowsPath(PurePosixPath(place).name).name}"
