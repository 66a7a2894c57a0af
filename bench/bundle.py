"""Bundles: committed runs as a folder or a zip file that a stranger can check.

A bundle has the layout of a store (`runs/<aa>/<run_id>/record.json`, `context.json` beside it) and
a `manifest.json` with the format's version and the sha256 of every file. The same runs give the
same bytes. A results folder of another machine is read too; it has no manifest.
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
MAX_ALL_BYTES = 1 << 30  # all of it is held in memory until it is checked


@dataclass(frozen=True)
class Parcel:
    """A run of a bundle, unread and unchecked.

    Attributes:
        run_id: as its folder says.
        record, context: the bytes of its files; None where there is none.
        problem: why its files cannot be those that were packed; "" where nothing is known.
    """

    run_id: str
    record: bytes | None
    context: bytes | None
    problem: str = ""


def pack(store: Store, run_ids: Sequence[str], to: Path) -> int:
    """Write committed runs as a bundle: a zip file by its suffix, else a folder.

    Returns:
        The number of files, the manifest aside.

    Raises:
        BenchError: there is something at `to` already, or it cannot be written.
    """
    if to.exists():
        raise BenchError(f"{to} is there already; choose another --out, or delete it.")
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
    with _made_whole(to) as folder:
        for name, own in {**files, MANIFEST: content}.items():
            write_bytes(folder / name, own)
    return len(files)


@contextmanager
def _made_whole(to: Path) -> Iterator[Path]:
    """Fill a folder that takes its name when all is in it: a kill leaves none of that name."""
    with changing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to.parent, prefix=WRITING) as home:
            yield Path(home) / to.name
            (Path(home) / to.name).rename(to)


def unpack(source: Path) -> list[Parcel]:
    """Read the runs of a bundle, or of a folder of results; nothing is written.

    A run whose files do not match the manifest has its `problem`.

    Raises:
        BenchError: there is nothing there, or it cannot be trusted as a whole: a name that leaves
            it, a link, a name twice, something that is no file of a run, too much of anything, or
            no manifest in a zip file.
    """
    if not source.exists():
        raise BenchError(f"there is no {source}. Give a bundle, or a folder of results.")
    files = _of_folder(source) if source.is_dir() else _of_zip(source)
    manifest = files.pop(MANIFEST, None)
    if manifest is None and not source.is_dir():
        raise BenchError(f"{source} is no bundle: it holds no {MANIFEST}.")
    listed = None if manifest is None else _listed(source, manifest)
    names: list[str] = sorted({*files, *(listed or {})})
    run_ids = dict.fromkeys(_matched(source, name)[2] for name in names)
    return [_parcel(run_id, files, listed) for run_id in run_ids]


def _parcel(run_id: str, files: Mapping[str, bytes], listed: Mapping[str, str] | None) -> Parcel:
    own = {kind: f"runs/{run_id[:2]}/{run_id}/{kind}.json" for kind in MAX_BYTES}
    problems = [_problem(name, files.get(name), listed) for name in own.values()] if listed else []
    problem = "; ".join(filter(None, problems))
    return Parcel(run_id, files.get(own["record"]), files.get(own["context"]), problem)


def _problem(name: str, content: bytes | None, listed: Mapping[str, str] | None) -> str:
    """Compare a file with the manifest."""
    short = name.rpartition("/")[2]
    stated = None if listed is None else listed.get(name)
    if content is None:
        return f"{short} is missing: the manifest lists it" if stated else ""
    if stated is None:
        return f"{short} is not in the manifest"
    same = hashlib.sha256(content).hexdigest() == stated
    return "" if same else f"{short} was changed: it is not what the manifest lists"


def _listed(source: Path, content: bytes) -> dict[str, str]:
    """Read the manifest: sha256 by file."""
    try:
        manifest = json.loads(content)
        kind, version = manifest["format"], manifest["version"]
        listed = {str(name): str(own["sha256"]) for name, own in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(f"the manifest of {source} cannot be read ({error!r}).") from error
    if (kind, version) != (FORMAT, VERSION):
        raise BenchError(
            f"{source} is a bundle of format {kind!r} {version}; this version reads {FORMAT!r} "
            f"{VERSION}."
        )
    return listed


def _matched(source: Path, name: str) -> re.Match[str]:
    """Take the name of a run's file apart; everything else is refused."""
    match = FILE.fullmatch(name)
    if match is None:
        raise BenchError(
            f"{source} is refused, nothing was taken in: {name!r} is not a file of a run."
        )
    return match


# ---- folders ---------------------------------------------------------------------------------


def _of_folder(root: Path) -> dict[str, bytes]:
    """Read the files of runs below a folder; what else lies there, such as masks, is left alone."""
    paths = sorted((root / "runs").glob("??/*/*.json"))
    paths += [path for path in [root / MANIFEST] if path.exists()]
    _refuse_too_many(root, len(paths))
    files, total = {}, 0
    for path in paths:
        name = path.relative_to(root).as_posix()
        if name != MANIFEST and FILE.fullmatch(name) is None:
            continue
        if any(part.is_symlink() for part in (path, *path.parents[: name.count("/")])):
            raise BenchError(f"{root} is refused, nothing was taken in: {name!r} is a link.")
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
    """Read a zip file into memory; every name and size is checked before anything is read."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not _is_folder(archive, entry)]
            _refuse_unsafe(archive, entries)
            return {entry.filename: bundle.read(entry) for entry in entries}
    except UNREADABLE as error:
        raise BenchError(f"{archive} is not a zip file that can be read: {error}.") from error


def _is_folder(archive: Path, entry: zipfile.ZipInfo) -> bool:
    """Tell a folder from a file; only the folders of runs may be there."""
    name = entry.orig_filename
    if not name.endswith("/"):
        return False
    if re.fullmatch(r"runs/([0-9a-f]{2}/([0-9a-f]{16}/)?)?", name, re.ASCII) is None:
        raise BenchError(f"{archive} is refused, nothing was taken in: the folder {name!r}.")
    return True


def _refuse_unsafe(archive: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    _refuse_too_many(archive, len(entries))
    seen, total = set(), 0
    for entry in entries:
        # ZipInfo cuts a name at a NUL and turns the separators of this system; the raw one counts.
        name = entry.orig_filename
        if name != MANIFEST:
            _matched(archive, name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        reasons = {
            "is a link or a device": kind not in (0, stat.S_IFREG),
            "is encrypted": bool(entry.flag_bits & 0x1),
            "stands in it twice": name in seen,
        }
        for reason, holds in reasons.items():
            if holds:
                raise BenchError(f"{archive} is refused, nothing was taken in: {name!r} {reason}.")
        seen.add(name)
        total = _refuse_too_much(archive, name, entry.file_size, total)


def _refuse_too_many(source: Path, files: int) -> None:
    if files > MAX_FILES:
        raise BenchError(f"{source} is refused: it holds {files} files, over {MAX_FILES}.")


def _refuse_too_much(source: Path, name: str, size: int, total: int) -> int:
    """Add the size of a file to those before; refuse what no run is as large as."""
    match = FILE.fullmatch(name)
    limit = MAX_BYTES[match[3]] if match else MAX_MANIFEST_BYTES
    if size > limit or total + size > MAX_ALL_BYTES:
        raise BenchError(
            f"{source} is refused, nothing was taken in: {name!r} claims {size} bytes, over the "
            f"limit of {limit} for one or {MAX_ALL_BYTES} for all."
        )
    return total + size


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Pack files with no time and no owner, sorted by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, files[name])
    return content.getvalue()
