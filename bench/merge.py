"""Take in runs that others made: each is checked whole before the store is touched.

Hashes find damage and careless edits. They do not tell who counted: whoever can write a record can
also write its hashes, so a board is as good as those whose runs are taken in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
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

LONGEST = 4096  # letters of a name
LARGEST = 1e15  # of a count: sums of as many as there may be are exact, and far from overflow


@dataclass(frozen=True)
class Merged:
    """What came of a bundle: ids of runs.

    Attributes:
        taken: new in the store.
        there: in the store already, the same to the byte.
        refused: with the reason.
    """

    taken: tuple[str, ...]
    there: tuple[str, ...]
    refused: Mapping[str, str]


def merge(source: Path, store: Store) -> Merged:
    """Take in the runs of a bundle or of a folder of results that are not there yet.

    Runs are refused one by one; a refused one changes nothing.

    Raises:
        BenchError: the source cannot be trusted as a whole (see `bench.bundle.unpack`), or the
            store cannot be written.
    """
    parcels = unpack(source)
    store.refuse_if_read_only()
    there, refused, good = [], {}, []
    for parcel in parcels:
        try:
            check(parcel)
            (there if _is_there(parcel, store) else good).append(parcel)
        except BenchError as error:
            refused[parcel.run_id] = str(error)
    taken = []
    for parcel in good:  # what another process has taken in since then is there as well
        (taken if _take(parcel, store) else there).append(parcel)
    return Merged(_ids(taken), _ids(there), refused)


def _ids(parcels: Sequence[Parcel]) -> tuple[str, ...]:
    return tuple(each.run_id for each in parcels)


def check(parcel: Parcel) -> Record:
    """Read a run, and find out whether it is whole and every display can show it.

    Raises:
        BenchError: it is not; the message says why.
    """
    if parcel.problem:
        raise BenchError(parcel.problem)
    if parcel.record is None:
        raise BenchError("record.json is missing")
    try:
        record = from_bytes(parcel.record, "record.json")
        whole = to_bytes(record)
        problem = next(_problems(parcel, record, whole), "")
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
        raise BenchError(f"record.json is no record ({error!r})") from error
    if problem:
        raise BenchError(problem)
    return record


def _problems(parcel: Parcel, record: Record, whole: bytes) -> Iterator[str]:
    """Say what is wrong with a run, the first thing first."""
    if record.run_id != parcel.run_id:
        yield f"its identity hashes to {record.run_id}, not to the id that it is under"
    if whole != parcel.record:
        yield "record.json has more, less or other text than a record of this identity"
    yield from _of_text(json.loads(whole))
    yield from oddities(record)
    yield from _of_trials(record)
    yield from _of_scores(record)
    if parcel.context is not None:
        yield from _of_context(parcel)


def _of_text(body: object) -> Iterator[str]:
    """Find text that could act on a terminal, and numbers that are none."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield from _of_text(key)
            yield from _of_text(value)
    elif isinstance(body, list):
        for value in body:
            yield from _of_text(value)
    elif isinstance(body, str) and (len(body) > LONGEST or not body.isprintable()):
        yield f"it holds text that is not printable or too long: {body[:40]!r}"
    elif isinstance(body, float) and not math.isfinite(body):
        yield f"it holds the number {body}"


def _of_trials(record: Record) -> Iterator[str]:
    """Find images without counts, counts without images, and ids that name no file."""
    odd = [image for image in record.patients if not is_file_name(image)]
    if odd or not record.patients or not all(isinstance(p, str) for p in record.patients.values()):
        yield f"its images and patients cannot be those of a run: {odd[:1]}"
    every = set(record.patients)
    images: dict[object, list[str]] = {draw: [] for draw in record.draws}
    for trial in record.trials:
        images[trial.draw] += trial.images
        if not _is_even(trial):
            yield f"a trial has not one number an image and count, from 0 to {LARGEST:g}"
    if not images or any(sorted(own) != sorted(every) for own in images.values()):
        yield "its trials do not score each of its images once a draw"


def _is_even(trial: TrialResult) -> bool:
    tags = all(is_file_name(key) and type(tag) is int for key, tag in trial.tags.items())
    return tags and all(
        len(values) == len(trial.images) and all(map(_is_count, values))
        for values in trial.counts.values()
    )


def _is_count(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST  # pyright: ignore


def _of_scores(record: Record) -> Iterator[str]:
    """Compute every score that there are counts for, as a board will."""
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
                yield f"its counts give no finite {name}"


def _of_context(parcel: Parcel) -> Iterator[str]:
    assert parcel.context is not None
    try:
        context = unsealed(parcel.context, parcel.run_id)
    except Damaged as error:
        yield f"context.json cannot be read: {error}"
        return
    seconds = context.get("seconds", {})
    if not isinstance(seconds, dict) or not all(type(s) in (int, float) for s in seconds.values()):
        yield "context.json does not tell when and how long a run ran"
    yield from _of_text(context)


def _is_there(parcel: Parcel, store: Store) -> bool:
    """Tell whether the store has this very run.

    Raises:
        BenchError: it has another one of this id.
    """
    own = content_of(store.folder(parcel.run_id) / "record.json")
    if own is None:
        return False
    if own == parcel.record:
        return True
    try:
        from_bytes(own, "the record")
    except BenchError as error:
        raise BenchError(f"the store's own record of this run is damaged: {error}") from error
    raise BenchError(
        "the store has a run of the same identity with other counts: two machines or library "
        "versions that do not agree to the bit, or an altered record. The store's own stays"
    )


def _take(parcel: Parcel, store: Store) -> bool:
    """Write a run unless another process has just done so; the record last."""
    assert parcel.record is not None
    folder = store.folder(parcel.run_id)
    if parcel.context is not None:
        write_bytes(folder / "context.json", parcel.context, replace=False)
    return write_bytes(folder / "record.json", parcel.record, replace=False)
