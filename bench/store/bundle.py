"""Bundles: committed runs as a folder or a zip file, to merge into another results folder.

A bundle has the layout of a results folder: `runs/<aa>/<run_id>/record.json` and `context.json`.
Each record contains its own sha256. The same runs produce the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.api.record import Record, TrialResult, from_bytes
from bench.errors import BenchError
from bench.store.files import is_file_name, read_bytes, read_zip, write_bytes, write_errors
from bench.store.locks import TEMPORARY
from bench.store.results import Store

FILE = re.compile(r"runs/([0-9a-f]{2})/(\1[0-9a-f]{14})/(record|context)\.json", re.ASCII)
KINDS = ("record", "context")
MANIFEST = "manifest.json"  # in bundles of earlier versions; ignored
INVALID = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
TOLERANCE = 1e-3  # relative difference of the counts of one run on different machines or threads
MAX_COUNT = 1e15  # so that sums of counts are exact and cannot overflow


@dataclass(frozen=True)
class BundledRun:
    """The files of a run in a bundle, not parsed and not checked.

    Attributes:
        run_id: the name of its folder.
        record, context: contents of its files; None if missing.
        problem: why they cannot be read; "" if they can.
    """

    run_id: str
    record: bytes | None
    context: bytes | None
    problem: str = ""


@dataclass(frozen=True)
class Merged:
    """The result of a merge: ids of runs.

    Attributes:
        added: added to the results folder.
        existing: already in the results folder, with equal counts up to `TOLERANCE`.
        refused: refused runs, with the reason.
    """

    added: tuple[str, ...]
    existing: tuple[str, ...]
    refused: Mapping[str, str]


def pack(store: Store, run_ids: Sequence[str], to: Path) -> None:
    """Write committed runs as a bundle: a zip file if `to` ends in ".zip", else a folder.

    Raises:
        BenchError: `to` exists, or is not writable.
    """
    if to.exists():
        raise BenchError(f"{to} exists. Choose another --out, or delete it.")
    files = {}
    for run_id in sorted(set(run_ids)):
        for kind in KINDS:
            path = store.folder(run_id) / f"{kind}.json"
            if path.is_file():
                files[path.relative_to(store.root).as_posix()] = path.read_bytes()
    if to.suffix == ".zip":
        write_bytes(to, _zipped(files))
        return
    with write_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to.parent, prefix=TEMPORARY) as parent:
            folder = Path(parent) / to.name
            for name, content in files.items():
                write_bytes(folder / name, content)
            folder.rename(to)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Create a zip file without times and owners."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, files[name])
    return content.getvalue()


def unpack(source: Path) -> Iterator[BundledRun]:
    """Yield the runs of a bundle or results folder, without writing anything.

    Raises:
        BenchError: the source does not exist, or is not a zip file of runs (see `read_zip`).
    """
    if source.is_dir():
        paths = (source / "runs").glob("??/*/*.json")
        names = {path.relative_to(source).as_posix(): path for path in paths}
    elif source.exists():
        files = read_zip(source, lambda name: name == MANIFEST or FILE.fullmatch(name) is not None)
        names = {name: content for name, content in files.items() if name != MANIFEST}
        if not names:
            raise BenchError(f"{source} is not a bundle: it contains no runs.")
    else:
        raise BenchError(f"{source} does not exist. Choose a bundle or a results folder.")
    matches = [match for name in sorted(names) if (match := FILE.fullmatch(name))]
    for run_id in dict.fromkeys(match[2] for match in matches):
        paths = [names.get(f"runs/{run_id[:2]}/{run_id}/{kind}.json") for kind in KINDS]
        try:
            record, context = (read_bytes(p) if isinstance(p, Path) else p for p in paths)
        except BenchError as error:
            yield BundledRun(run_id, None, None, str(error))
        else:
            yield BundledRun(run_id, record, context)


def merge(source: Path, store: Store) -> Merged:
    """Add the new runs of a bundle or results folder to a results folder.

    Runs are refused individually; a refused run changes nothing.

    Raises:
        BenchError: the source is refused as a whole (see `unpack`), or the results folder is not
            writable.
    """
    runs = unpack(source)
    added, existing, refused = [], [], {}
    for number, run in enumerate(runs):
        if number == 0:
            store.refuse_if_read_only()
        try:
            record = check(run)
            exists = _exists(run, record, store)
        except BenchError as error:
            refused[run.run_id] = str(error)
            continue
        if exists:
            existing.append(run.run_id)
            continue
        folder = store.folder(run.run_id)
        if run.context is not None:
            write_bytes(folder / "context.json", run.context, replace=False)
        assert run.record is not None
        write_bytes(folder / "record.json", run.record, replace=False)
        added.append(run.run_id)
    return Merged(tuple(added), tuple(existing), refused)


def _exists(run: BundledRun, record: Record, store: Store) -> bool:
    """Return whether the results folder contains this run.

    The counts may differ by `TOLERANCE`: another number of threads, device or version of a library
    rounds differently.

    Raises:
        BenchError: it contains a different run with this id.
    """
    content = read_bytes(store.folder(run.run_id) / "record.json")
    if content is None or content == run.record:
        return content is not None
    try:
        existing = from_bytes(content, "the record")
    except BenchError as error:
        raise BenchError(f"the existing record of this run is damaged: {error}") from error
    if difference := _difference(existing, record):
        raise BenchError(
            f"a run with the same identity and other counts exists: {difference}. Rounding by "
            f"another machine changes a count by at most {TOLERANCE:.1%}, or one per image: a "
            "record was altered, or a library computes differently. The existing run was not "
            "changed"
        )
    return True


def _difference(existing: Record, record: Record) -> str:
    """Return the count in which two records of a run differ most, or ""."""
    pairs = list(zip(existing.trials, record.trials, strict=False))
    if len(existing.trials) != len(record.trials) or any(
        (a.tags, a.train, a.images, [*a.counts]) != (b.tags, b.train, b.images, [*b.counts])
        for a, b in pairs
    ):
        return "its trials, images or names of counts differ"
    scored = sum(len(trial.images) for trial in existing.trials)
    worst, text = 0.0, ""
    for name in existing.trials[0].counts if pairs else ():
        before, after = (
            [value for pair in pairs for value in pair[side].counts[name]] for side in (0, 1)
        )
        difference = sum(abs(a - b) for a, b in zip(before, after, strict=True))
        total = max(sum(before), sum(after))
        excess = difference / max(TOLERANCE * total, scored)
        if excess > max(1, worst):
            worst, share = excess, difference / total
            text = f"{name!r} differs by {difference:g} of {total:g} ({share:.2%})"
    return text


def check(run: BundledRun) -> Record:
    """Parse a run, and check that it is complete and consistent.

    Raises:
        BenchError: the run is invalid.
    """
    if run.record is None:
        raise BenchError(run.problem or "record.json is missing")
    try:
        record = from_bytes(run.record, "record.json")
        problem = next(_problems(run, record), "")
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as e:
        raise BenchError(f"record.json is not a valid record ({e!r})") from e
    if problem:
        raise BenchError(problem)
    return record


def _problems(run: BundledRun, record: Record) -> Iterator[str]:
    assert run.record is not None
    if record.run_id != run.run_id:
        yield f"its identity hashes to {record.run_id}, which differs from the name of its folder"
    yield from _value_problems(json.loads(run.record))
    yield from _trial_problems(record)
    if run.context is not None:
        try:
            context = json.loads(run.context)
        except ValueError as error:
            yield f"context.json is not valid JSON ({error})"
            return
        if not isinstance(context, dict) or not isinstance(context.get("seconds", {}), dict):
            yield "context.json does not describe a run"
        yield from _value_problems(context)


def _value_problems(body: object) -> Iterator[str]:
    """Find unprintable text, which could control a terminal, and non-finite numbers."""
    if isinstance(body, dict):
        yield from _value_problems([*body, *body.values()])
    elif isinstance(body, list):
        for value in body:
            yield from _value_problems(value)
    elif isinstance(body, str) and not body.isprintable():
        yield f"it contains text that is not printable: {body[:40]!r}"
    elif isinstance(body, float) and not math.isfinite(body):
        yield f"it contains the number {body}"


def _trial_problems(record: Record) -> Iterator[str]:
    """Find images without counts, counts without images, and ids that are not file names."""
    patients = record.patients
    if not patients or not all(is_file_name(image) for image in patients):
        yield f"its images are not valid: {sorted(patients)[:1]}"
    images: dict[object, list[str]] = {draw: [] for draw in record.draws}
    for trial in record.trials:
        images[trial.draw] += trial.images
        if not _is_valid(trial):
            yield f"a trial does not have one number from 0 to {MAX_COUNT:g} per image and count"
    if not images or any(sorted(scored) != sorted(patients) for scored in images.values()):
        yield "its trials do not score each image once per draw"


def _is_valid(trial: TrialResult) -> bool:
    tags = all(is_file_name(key) and type(tag) is int for key, tag in trial.tags.items())
    return tags and all(
        len(values) == len(trial.images)
        and all(type(value) in (int, float) and 0 <= value <= MAX_COUNT for value in values)
        for values in trial.counts.values()
    )
