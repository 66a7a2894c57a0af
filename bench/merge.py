"""Merge runs of other machines into a results folder, after checking each run.

Hashes detect damage and accidental edits. They do not prove who produced a run: anyone who can
write a record can also write its hashes. A board is only as trustworthy as its sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import registry
from bench.board import HEADLINE, scores_of_images
from bench.bundle import Parcel, unpack
from bench.errors import BenchError, Damaged
from bench.fields import oddities
from bench.manifest import is_file_name
from bench.record import Record, TrialResult, from_bytes, to_bytes
from bench.sealed import unsealed
from bench.store import Store, content_of, write_bytes

LONGEST = 4096  # characters of a text
LARGEST = 1e15  # of a count, so that sums of counts are exact and cannot overflow


@dataclass(frozen=True)
class Merged:
    """The result of a merge: ids of runs.

    Attributes:
        taken: added to the results folder.
        there: already in the results folder, byte for byte.
        refused: refused runs, with the reason.
    """

    taken: tuple[str, ...]
    there: tuple[str, ...]
    refused: Mapping[str, str]


def merge(source: Path, store: Store) -> Merged:
    """Add the new runs of a bundle or results folder to a results folder.

    Runs are refused individually; a refused run changes nothing.

    Raises:
        BenchError: the source is refused as a whole (see `bench.bundle.unpack`), or the results
            folder is not writable.
    """
    parcels = unpack(source)
    store.refuse_if_read_only()
    existing, refused, new = [], {}, []
    for parcel in parcels:
        try:
            check(parcel)
            exists = _exists(parcel, store)
        except BenchError as error:
            refused[parcel.run_id] = str(error)
            continue
        if exists:
            existing.append(parcel.run_id)
        else:
            new.append(parcel)
    added = []
    for parcel in new:
        if _write(parcel, store):
            added.append(parcel.run_id)
        else:  # another process has merged it in the meantime
            existing.append(parcel.run_id)
    return Merged(tuple(added), tuple(existing), refused)


def check(parcel: Parcel) -> Record:
    """Parse a run, and check that it is complete and that every display can show it.

    Raises:
        BenchError: the run is invalid.
    """
    if parcel.problem:
        raise BenchError(parcel.problem)
    if parcel.record is None:
        raise BenchError("record.json is missing")
    try:
        record = from_bytes(parcel.record, "record.json")
        problem = next(_problems(parcel, record, to_bytes(record)), "")
    except BenchError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise BenchError(f"record.json is not a valid record ({error!r})") from error
    if problem:
        raise BenchError(problem)
    return record


def _problems(parcel: Parcel, record: Record, content: bytes) -> Iterator[str]:
    """Yield the problems of a run; `content` is the serialised record."""
    if record.run_id != parcel.run_id:
        yield f"its identity hashes to {record.run_id}, which differs from the name of its folder"
    if content != parcel.record:
        yield "record.json differs from the canonical text of its record"
    yield from _value_problems(json.loads(content))
    yield from oddities(record)
    yield from _trial_problems(record)
    yield from _score_problems(record)
    if parcel.context is not None:
        yield from _context_problems(parcel)


def _value_problems(body: object) -> Iterator[str]:
    """Find unprintable text, which could control a terminal, and non-finite numbers."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield from _value_problems(key)
            yield from _value_problems(value)
    elif isinstance(body, list):
        for value in body:
            yield from _value_problems(value)
    elif isinstance(body, str) and (len(body) > LONGEST or not body.isprintable()):
        yield f"it contains text that is not printable or too long: {body[:40]!r}"
    elif isinstance(body, float) and not math.isfinite(body):
        yield f"it contains the number {body}"


def _trial_problems(record: Record) -> Iterator[str]:
    """Find images without counts, counts without images, and ids that are not file names."""
    bad = [image for image in record.patients if not is_file_name(image)]
    if bad or not record.patients or not all(isinstance(p, str) for p in record.patients.values()):
        yield f"its images and patients are not valid: {bad[:1]}"
    ids = sorted(record.patients)
    images: dict[object, list[str]] = {draw: [] for draw in record.draws}
    for trial in record.trials:
        images[trial.draw] += trial.images
        if not _is_valid(trial):
            yield f"a trial does not have one number from 0 to {LARGEST:g} per image and count"
    if not images or any(sorted(scored) != ids for scored in images.values()):
        yield "its trials do not score each image once per draw"


def _is_valid(trial: TrialResult) -> bool:
    tags = all(is_file_name(key) and type(tag) is int for key, tag in trial.tags.items())
    return tags and all(
        len(values) == len(trial.images) and all(map(_is_count, values))
        for values in trial.counts.values()
    )


def _is_count(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST  # pyright: ignore


def _score_problems(record: Record) -> Iterator[str]:
    """Compute every score for which there are counts, as a board does."""
    for family in [registry.get("metrics", name) for name in registry.names("metrics")]:
        for name in family.scores:
            try:
                with np.errstate(all="ignore"):
                    scores = scores_of_images(record, name)
            except BenchError as error:
                if name in HEADLINE:
                    yield str(error)
                continue
            if not np.isfinite(scores).all():
                yield f"its counts do not give a finite {name}"


def _context_problems(parcel: Parcel) -> Iterator[str]:
    assert parcel.context is not None
    try:
        context = unsealed(parcel.context, parcel.run_id)
    except Damaged as error:
        yield f"context.json cannot be read: {error}"
        return
    seconds = context.get("seconds", {})
    if not isinstance(seconds, dict) or not all(type(s) in (int, float) for s in seconds.values()):
        yield "context.json does not contain valid durations"
    yield from _value_problems(context)


def _exists(parcel: Parcel, store: Store) -> bool:
    """Return whether the results folder contains exactly this run.

    Raises:
        BenchError: it contains a different run with this id.
    """
    content = content_of(store.folder(parcel.run_id) / "record.json")
    if content is None:
        return False
    if content == parcel.record:
        return True
    try:
        from_bytes(content, "the record")
    except BenchError as error:
        raise BenchError(f"the existing record of this run is damaged: {error}") from error
    raise BenchError(
        "a run with the same identity and other counts exists: two machines or library versions "
        "do not agree to the bit, or a record was altered. The existing run was not changed"
    )


def _write(parcel: Parcel, store: Store) -> bool:
    """Write a run unless it exists; the record is written last."""
    assert parcel.record is not None
    folder = store.folder(parcel.run_id)
    if parcel.context is not None:
        write_bytes(folder / "context.json", parcel.context, replace=False)
    return write_bytes(folder / "record.json", parcel.record, replace=False)
