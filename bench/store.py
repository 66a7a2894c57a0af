"""Every file that the product writes: whole or not at all, by temporary file, fsync and rename.

A store is a folder of results. `runs/<aa>/<run_id>/record.json` is immutable; `context.json` beside
it tells when, where and how long; `work/<run_id>/` holds the finished trials of a run under way, or
the reason of one that failed, and goes when the run is committed. Two machines merge by copying.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from bench.claim import WRITING, claimed, lock
from bench.errors import BenchError, Damaged
from bench.record import (
    Draw,
    Record,
    TrialResult,
    canonical,
    from_bytes,
    identify,
    to_bytes,
    trial_from,
)
from bench.sealed import sealed, unsealed

SUMS = "SHA256SUMS"  # in a folder of masks; `sha256sum --check` reads it too
TRIAL = re.compile(r"trial-([0-9]{4,})")


def write_bytes(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Args:
        path: its folder is made where it does not exist.
        replace: False leaves an existing file alone.

    Returns:
        Whether the file was written; False only with `replace=False` and a file that was there.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    return write_stream(path, lambda file: file.write(content), replace=replace)


def write_stream(path: Path, write: Callable[[BinaryIO], object], *, replace: bool = True) -> bool:
    """Do what `write_bytes` does, with content that `write` puts into a file piece by piece."""
    with changing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=WRITING)
        lock(handle)  # so that nobody takes it for an orphan
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            if replace:
                Path(temporary).replace(path)
            written = replace or _link_new(Path(temporary), path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        _keep_name(path.parent)
        return written


def _keep_name(folder: Path) -> None:
    """Have the names in a folder outlast a loss of power, where the system can promise that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def _link_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        temporary.replace(path)
    return True


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Tell a file or folder that cannot be changed in words, with the cure."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose a folder with room that you may write to (`--results DIR`, `--out DIR`; "
            "BENCH_CACHE for the cache, or `--no-cache`)."
        ) from error


def mask_path(masks: Path, draw: Draw, image: str) -> Path:
    """Give the place of a predicted mask among the masks of a run."""
    return masks.joinpath(*(f"{key}-{value}" for key, value in draw)) / f"{image}.png"


@dataclass(frozen=True)
class Store:
    """The results under one folder."""

    root: Path

    def refuse_if_read_only(self) -> None:
        """Probe, before any work, whether results can be written.

        Raises:
            BenchError: they can not.
        """
        folder = self.root / "work"
        with changing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder, prefix=WRITING):
                pass

    def folder(self, run_id: str) -> Path:
        """Name the folder of a committed run."""
        return self.root / "runs" / run_id[:2] / run_id

    def work(self, run_id: str) -> Path:
        """Name the folder of a run under way."""
        return self.root / "work" / run_id

    @contextmanager
    def claimed(self, run_id: str, waits: Callable[[], object]) -> Iterator[None]:
        """Be the only process that makes a run; `waits` is called where one has to wait first."""
        with ExitStack() as held:
            with changing(self.work(run_id)):
                held.enter_context(claimed(self.work(run_id) / "claim", waits))
            yield

    def find(self, run_id: str) -> Record | None:
        """Give a committed run; None where there is none.

        A damaged record, or that of another run, is moved to `quarantine/`, so that the run can be
        made again.

        Raises:
            BenchError: it cannot be read, or is of another schema; it stays where it is.
        """
        try:
            return _read_record(self.folder(run_id) / "record.json")
        except Damaged:
            aside = self.root / "quarantine" / f"{run_id}-{time.time_ns()}"
            with changing(aside), suppress(FileNotFoundError):  # another process put it aside
                aside.parent.mkdir(parents=True, exist_ok=True)
                self.folder(run_id).rename(aside)
            return None

    def repeats(self, spec: Mapping[str, object]) -> int:
        """Count the committed runs of an identity: the number of its next repeat."""
        number = 0
        while self.find(identify({**spec, "repeat": number})) is not None:
            number += 1
        return number

    def context(self, run_id: str) -> dict:
        """Give when, where and how long a committed run ran; empty where it is not known."""
        try:
            return unsealed((self.folder(run_id) / "context.json").read_bytes(), run_id)
        except (OSError, Damaged):
            return {}

    def records(self) -> Iterator[Record | BenchError]:
        """Give every committed run, oldest first; a damaged record as the error that it is."""
        paths = sorted(self.root.glob("runs/??/*/record.json"))
        when = {path: str(self.context(path.parent.name).get("finished", "")) for path in paths}
        for path in sorted(paths, key=lambda path: (when[path], path)):
            try:
                found = _read_record(path)
            except BenchError as error:
                found = error
            if found is not None:
                yield found

    def keep_masks(self, run_id: str) -> None:
        """Move the masks of a run under way beside its record, all at once, with their hashes."""
        new, masks = self.work(run_id) / "masks", self.folder(run_id) / "masks"
        if new.is_dir():
            with changing(masks):
                write_bytes(new / SUMS, _sums(new))
                if masks.is_dir():  # of a process that was killed before it could commit
                    shutil.rmtree(masks)
                masks.parent.mkdir(parents=True, exist_ok=True)
                new.rename(masks)

    def commit(self, record: Record, context: Mapping[str, object]) -> bool:
        """Write a run, unless another process has written it first; then clear its work folder.

        Returns:
            Whether this call wrote it.
        """
        folder = self.folder(record.run_id)
        write_bytes(folder / "context.json", sealed(context, record.run_id), replace=False)
        written = write_bytes(folder / "record.json", to_bytes(record), replace=False)
        self.clear(record.run_id)
        return written

    def clear(self, run_id: str) -> None:
        """Remove the work folder of a run that is committed."""
        shutil.rmtree(self.work(run_id), ignore_errors=True)

    def keep_trial(self, run_id: str, number: int, result: TrialResult) -> None:
        """Keep a finished trial of a run under way, so that a run that is stopped can go on."""
        path = self.work(run_id) / f"trial-{number:04d}.json"
        body = canonical(asdict(result))
        write_bytes(path, body + b"\n" + _trial_hash(path, body) + b"\n")

    def kept_trials(self, run_id: str) -> dict[int, TrialResult]:
        """Give the finished trials of a run under way, by number; a damaged one counts as none."""
        named = {path: TRIAL.fullmatch(path.stem) for path in self.work(run_id).glob("*.json")}
        found = {int(match[1]): read_trial(path) for path, match in named.items() if match}
        return {number: trial for number, trial in found.items() if trial is not None}

    def fail(self, run_id: str, spec: Mapping[str, object], reason: str) -> None:
        """Keep the reason of a run that failed, for the board to tell."""
        body = {"run_id": run_id, "spec": spec, "reason": reason}
        write_bytes(self.work(run_id) / "failed.json", canonical(body) + b"\n")

    def failures(self) -> list[str]:
        """Tell of the runs that failed and were not run to the end since, a line each."""
        return [_failure(path) for path in sorted(self.root.glob("work/*/failed.json"))]


def _sums(folder: Path) -> bytes:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return "".join(f"{own}  {name}\n" for own, name in zip(hashes, names, strict=True)).encode()


def read_sums(masks: Path) -> dict[Path, str]:
    """Give the sha256 that each mask of a folder was written with; empty where none are kept."""
    try:
        lines = (masks / SUMS).read_text().splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("  ") for line in lines)
    return {masks / name: sha256 for sha256, _, name in pairs}


def read_trial(path: Path) -> TrialResult | None:
    """Read a kept trial; None where it does not match its own hash, or is that of another run."""
    try:
        body, sha256, end = path.read_bytes().split(b"\n")
    except (OSError, ValueError):
        return None
    whole = _trial_hash(path, body) == sha256 and not end
    return trial_from(json.loads(body)) if whole else None


def _trial_hash(path: Path, body: bytes) -> bytes:
    """Hash a trial with its run and number, so that two that change places are noticed."""
    place = f"{path.parent.name}/{path.stem}\0".encode()
    return hashlib.sha256(place + body).hexdigest().encode()


def _failure(path: Path) -> str:
    try:
        body = _read_json(path)
        names = [body["spec"][kind]["name"] for kind in ("backbone", "dataset", "protocol")]
        return f"{' · '.join(names)} ({body['run_id']}): {body['reason']}"
    except (BenchError, KeyError, TypeError):
        return f"{path.parent.name}: its reason cannot be read"


def _read_record(path: Path) -> Record | None:
    """Read the record of the run that its folder names; None where there is none.

    Raises:
        Damaged: it was changed, or is the record of another run.
        BenchError: it cannot be read, or is of another schema.
    """
    content = content_of(path)
    if content is None:
        return None
    record = from_bytes(content, str(path))
    if record.run_id != path.parent.name:
        raise Damaged(f"{path} is the record of another run, {record.run_id}")
    return record


def content_of(path: Path) -> bytes | None:
    """Read a file; None where there is none.

    Raises:
        BenchError: it is there and cannot be read, which says nothing about what it holds.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read: {error.strerror or error}. It was left as it is: see to it "
            "that you may read it (its permissions, its disk), and give the same command again."
        ) from error


def _read_json(path: Path) -> dict:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise BenchError(f"{path} holds no JSON object")
    return body
