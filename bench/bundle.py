"""Bundles: committed runs as a folder or a zip file that third parties can verify.

A bundle has the layout of a results folder (`runs/<aa>/<run_id>/record.json` and `context.json`)
and a `manifest.json` with the version of the format and the sha256 of every file. The same runs
produce the same bytes. Results folders of other machines, which have no manifest, can be read too.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.claim import WRITING
from bench.errors import BenchError
from bench.store import Store, changing, write_bytes
from bench.unpack import UNREADABLE

FORMAT, VERSION = "cmd-bench results", 1
MANIFEST = "manifest.json"
FILE = re.compile(r"runs/([0-9a-f]{2})/(\1[0-9a-f]{14})/(record|context)\.json", re.ASCII)
MAX_FILES = 200_000
MAX_BYTES = {"record": 64 << 20, "context": 1 << 20}
MAX_MANIFEST_BYTES = 64 << 20
MAX_ALL_BYTES = 1 << 30  # the whole bundle is in memory during the check


@dataclass(frozen=True)
class Parcel:
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


def unpack(source: Path) -> list[Parcel]:
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


def _parcel(run_id: str, files: Mapping[str, bytes], listed: Mapping[str, str] | None) -> Parcel:
    names = {kind: f"runs/{run_id[:2]}/{run_id}/{kind}.json" for kind in MAX_BYTES}
    problems = [_problem(name, files.get(name), listed) for name in names.values() if listed]
    problem = "; ".join(filter(None, problems))
    return Parcel(run_id, files.get(names["record"]), files.get(names["context"]), problem)


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
