"""Bundles: committed runs as a folder or a zip file that third parties can verify.

A bundle has the layout of a results folder (`runs/<aa>/<run_id>/record.json` and `context.json`)
and a `manifest.json` with the version of the format and the sha256 of every file. The same runs
produce the same bytes. Results folders of other machines, which have no manifest, can be read too.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import registry
from bench.api.board import HEADLINE
from bench.api.record import Record, TrialResult, from_bytes, to_bytes
from bench.board.scores import scores_of_images
from bench.errors import BenchError, Damaged
from bench.store.files import UNREADABLE, changing, content_of, is_file_name, unsealed, write_bytes
from bench.store.locks import WRITING
from bench.store.results import Store

FORMAT, VERSION = "cmd-bench results", 1
MANIFEST = "manifest.json"
FILE = re.compile(r"runs/([0-9a-f]{2})/(\1[0-9a-f]{14})/(record|context)\.json", re.ASCII)
MAX_FILES = 200_000
MAX_BYTES = {"record": 64 << 20, "context": 1 << 20}
MAX_MANIFEST_BYTES = 64 << 20
MAX_ALL_BYTES = 1 << 30  # the whole bundle is in memory during the check


@dataclass(frozen=True)
class BundledRun:
    """The files of a run in a bundle, not parsed and not checked.

    Attributes:
        run_id: the name of its folder.
        record, context: contents of its files; None if missing.
        problem: how its files differ from the manifest; "" if they do not.
    """

    run_id: str
    record: bytes | None
    context: bytes | None
    problem: str = ""


def pack(store: Store, run_ids: Sequence[str], to: Path) -> int:
    """Write committed runs as a bundle: a zip file if `to` ends in ".zip", else a folder.

    Returns:
        The number of files, without the manifest.

    Raises:
        BenchError: `to` exists, or is not writable.
    """
    if to.exists():
        raise BenchError(f"{to} exists. Choose another --out, or delete it.")
    files = {}
    for run_id in sorted(set(run_ids)):
        for kind in ("record", "context"):
            path = store.folder(run_id) / f"{kind}.json"
            if path.is_file():
                files[path.relative_to(store.root).as_posix()] = path.read_bytes()
    listed = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    manifest = {"format": FORMAT, "version": VERSION, "files": listed}
    content = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    if to.suffix == ".zip":
        write_bytes(to, _zipped({**files, MANIFEST: content}))
        return len(files)
    with _atomic_folder(to) as folder:
        for name, data in {**files, MANIFEST: content}.items():
            write_bytes(folder / name, data)
    return len(files)


@contextmanager
def _atomic_folder(to: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `to` at the end."""
    with changing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to.parent, prefix=WRITING) as parent:
            yield Path(parent) / to.name
            (Path(parent) / to.name).rename(to)


def unpack(source: Path) -> list[BundledRun]:
    """Read the runs of a bundle or results folder, without writing anything.

    If the files of a run do not match the manifest, its `problem` is set.

    Raises:
        BenchError: the source does not exist, or is refused as a whole: a path outside of it, a
            link, a duplicate name, a file that does not belong to a run, too many or too large
            files, or a zip file without a manifest.
    """
    if not source.exists():
        raise BenchError(f"{source} does not exist. Choose a bundle or a results folder.")
    files = _of_folder(source) if source.is_dir() else _of_zip(source)
    manifest = files.pop(MANIFEST, None)
    if manifest is None and not source.is_dir():
        raise BenchError(f"{source} is not a bundle: it has no {MANIFEST}.")
    listed = None if manifest is None else _listed(source, manifest)
    names: list[str] = sorted({*files, *(listed or {})})
    run_ids = dict.fromkeys(_matched(source, name)[2] for name in names)
    return [_parcel(run_id, files, listed) for run_id in run_ids]


def _parcel(
    run_id: str, files: Mapping[str, bytes], listed: Mapping[str, str] | None
) -> BundledRun:
    names = {kind: f"runs/{run_id[:2]}/{run_id}/{kind}.json" for kind in MAX_BYTES}
    problems = [_problem(name, files.get(name), listed) for name in names.values() if listed]
    problem = "; ".join(filter(None, problems))
    return BundledRun(run_id, files.get(names["record"]), files.get(names["context"]), problem)


def _problem(name: str, content: bytes | None, listed: Mapping[str, str] | None) -> str:
    """Describe how a file differs from the manifest; "" if it does not."""
    short = name.rpartition("/")[2]
    stated = None if listed is None else listed.get(name)
    if content is None:
        return f"{short} is missing: the manifest lists it" if stated else ""
    if stated is None:
        return f"{short} is not in the manifest"
    if hashlib.sha256(content).hexdigest() == stated:
        return ""
    return f"{short} was changed: its sha256 differs from the manifest"


def _listed(source: Path, content: bytes) -> dict[str, str]:
    """Return the sha256 of each file in the manifest."""
    try:
        manifest = json.loads(content)
        kind, version = manifest["format"], manifest["version"]
        listed = {str(name): str(file["sha256"]) for name, file in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(f"the manifest of {source} cannot be read ({error!r}).") from error
    if (kind, version) != (FORMAT, VERSION):
        raise BenchError(
            f"{source} is a bundle of format {kind!r} {version}; this version reads {FORMAT!r} "
            f"{VERSION}."
        )
    return listed


def _matched(source: Path, name: str) -> re.Match[str]:
    """Parse the path of a run's file; raise a BenchError for any other path."""
    match = FILE.fullmatch(name)
    if match is None:
        raise BenchError(
            f"{source} is refused, nothing was merged: {name!r} is not a file of a run."
        )
    return match


# ---- folders ---------------------------------------------------------------------------------


def _of_folder(root: Path) -> dict[str, bytes]:
    """Read the files of the runs in a folder; other files, such as masks, are ignored."""
    paths = sorted((root / "runs").glob("??/*/*.json"))
    paths += [path for path in [root / MANIFEST] if path.exists()]
    _refuse_too_many(root, len(paths))
    files, total = {}, 0
    for path in paths:
        name = path.relative_to(root).as_posix()
        if name != MANIFEST and FILE.fullmatch(name) is None:
            continue
        if any(part.is_symlink() for part in (path, *path.parents[: name.count("/")])):
            raise BenchError(f"{root} is refused, nothing was merged: {name!r} is a link.")
        if not path.is_file():
            continue
        total = _refuse_too_much(root, name, path.stat().st_size, total)
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise BenchError(f"{path} cannot be read: {error.strerror}.") from error
    return files


# ---- zip files -------------------------------------------------------------------------------


def _of_zip(archive: Path) -> dict[str, bytes]:
    """Read a zip file into memory, after checking all names and sizes."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not _is_folder(archive, entry)]
            _refuse_unsafe(archive, entries)
            return {entry.filename: bundle.read(entry) for entry in entries}
    except UNREADABLE as error:
        raise BenchError(f"{archive} is not a readable zip file: {error}.") from error


def _is_folder(archive: Path, entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry is a folder; raise a BenchError unless it is a folder of runs."""
    name = entry.orig_filename
    if not name.endswith("/"):
        return False
    if re.fullmatch(r"runs/([0-9a-f]{2}/([0-9a-f]{16}/)?)?", name, re.ASCII) is None:
        raise BenchError(f"{archive} is refused, nothing was merged: unexpected folder {name!r}.")
    return True


def _refuse_unsafe(archive: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    _refuse_too_many(archive, len(entries))
    seen, total = set(), 0
    for entry in entries:
        # ZipInfo.filename is cut at NUL and has converted separators; check the raw name.
        name = entry.orig_filename
        if name != MANIFEST:
            _matched(archive, name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        reasons = {
            "is a link or a device": kind not in (0, stat.S_IFREG),
            "is encrypted": bool(entry.flag_bits & 0x1),
            "is a duplicate name": name in seen,
        }
        for reason, applies in reasons.items():
            if applies:
                raise BenchError(f"{archive} is refused, nothing was merged: {name!r} {reason}.")
        seen.add(name)
        total = _refuse_too_much(archive, name, entry.file_size, total)


def _refuse_too_many(source: Path, files: int) -> None:
    if files > MAX_FILES:
        raise BenchError(
            f"{source} is refused: it contains {files} files, the limit is {MAX_FILES}."
        )


def _refuse_too_much(source: Path, name: str, size: int, total: int) -> int:
    """Return the new total size; raise a BenchError if a size limit is exceeded."""
    match = FILE.fullmatch(name)
    limit = MAX_BYTES[match[3]] if match else MAX_MANIFEST_BYTES
    if size > limit or total + size > MAX_ALL_BYTES:
        raise BenchError(
            f"{source} is refused, nothing was merged: {name!r} has {size} bytes. The limits are "
            f"{limit} for this file and {MAX_ALL_BYTES} in total."
        )
    return total + size


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Create a zip file without times and owners, sorted by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, files[name])
    return content.getvalue()


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
        BenchError: the source is refused as a whole (see `bench.store.bundle.unpack`), or the
            results folder is not writable.
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


def check(parcel: BundledRun) -> Record:
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


def _problems(parcel: BundledRun, record: Record, content: bytes) -> Iterator[str]:
    """Yield the problems of a run; `content` is the serialised record."""
    if record.run_id != parcel.run_id:
        yield f"its identity hashes to {record.run_id}, which differs from the name of its folder"
    if content != parcel.record:
        yield "record.json differs from the canonical text of its record"
    yield from _value_problems(json.loads(content))
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


def _context_problems(parcel: BundledRun) -> Iterator[str]:
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


def _exists(parcel: BundledRun, store: Store) -> bool:
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


def _write(parcel: BundledRun, store: Store) -> bool:
    """Write a run unless it exists; the record is written last."""
    assert parcel.record is not None
    folder = store.folder(parcel.run_id)
    if parcel.context is not None:
        write_bytes(folder / "context.json", parcel.context, replace=False)
    return write_bytes(folder / "record.json", parcel.record, replace=False)
