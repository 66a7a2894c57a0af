"""The contents of the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench.api.board import Row
from bench.api.record import Record
from bench.board import scores as board_scores
from bench.board.scores import lower_is_better, scores_of_images
from bench.render.boards import interval_notes
from bench.report.collect import Gathered
from bench.report.overlays import overlays
from bench.report.privacy import plain
from bench.runs.command import command_of

ON_MACHINE = ("file ", "cache ")  # prefixes of weights sources that contain a local path


@dataclass(frozen=True)
class ImageTable:
    """The scores of each image, averaged over draws, worst image first.

    Attributes:
        sorted: sort order of the first score, a value of aria-sort.
    """

    names: Sequence[str]
    sorted: str
    rows: Sequence[tuple[str, str, Sequence[float]]]


def context(row: Row, gathered: Gathered, data: Path | None, *, every: bool) -> dict[str, object]:
    """Return the template variables of a run's page.

    Args:
        every: include all metrics that the run has counts for, not only those of the board.
    """
    record, options = row.record, gathered.options
    more = (
        [name for name in board_scores.counted(record) if name not in row.scores] if every else []
    )
    scores = {**row.scores, **board_scores.scores(record, more, options)}
    environment = gathered.store.context(record.run_id)
    return {
        "row": row,
        "scores": scores,
        "legend": interval_notes([score.summary.interval.note for score in scores.values()]),
        "metric": options.metric,
        "overlays": overlays(record, gathered.store, data, metric=options.metric),
        "table": image_table(record, list(row.scores)),
        "command": command_of(record),
        "moved": bool(record.spec.scored.shift)
        or record.facts["scored"] != record.facts["dataset"],
        "configuration": _as_text(record.spec.to_json()),
        "facts": _as_text(record.facts),
        "versions": {
            name: environment[name] for name in ("bench", "torch", "timm") if environment.get(name)
        },
    }


def image_table(record: Record, names: Sequence[str]) -> ImageTable:
    """Return the table of image scores."""
    columns = [scores_of_images(record, name).mean(axis=0).tolist() for name in names]
    rows = [
        (image, record.patients[image], values)
        for image, *values in zip(record.images, *columns, strict=True)
    ]
    descending = lower_is_better(names[0])
    rows.sort(key=lambda row: (-row[2][0] if descending else row[2][0], row[0]))
    return ImageTable(names, "descending" if descending else "ascending", rows)


def _as_text(values: Mapping[str, object]) -> dict[str, str]:
    """Format the values of a mapping, sorted by key."""
    return {name: plain(_without_folder(value)) for name, value in sorted(values.items())}


def _without_folder(value: object) -> object:
    """Reduce the path of a weights file to its name."""
    if not isinstance(value, str) or not value.startswith(ON_MACHINE):
        return value
    kind, _, path = value.partition(" ")
    return f"{kind} {PureWindowsPath(PurePosixPath(path).name).name}"
