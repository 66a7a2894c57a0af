"""The results folder: committed runs, and the trials and failures of unfinished ones.

`runs/<aa>/<run_id>/record.json` is immutable and contains its own hash; `context.json` next to it
stores the time, environment and duration of the run. `work/<run_id>/` stores the finished trials
of an unfinished run, or the reason of a failure; it is removed when the run is committed. Results
folders of several machines can be merged by copying.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bench.api.record import (
    Draw,
    Record,
    TrialResult,
    canonical,
    from_bytes,
    identify,
    to_bytes,
    trial_from,
)
from bench.api.spec import RunSpec
from bench.errors import BenchError, Damaged
from bench.store.files import read_bytes, sha256_of, write_bytes, write_errors
from bench.store.locks import TEMPORARY, locked

SUMS = "SHA256SUMS"  # in a folder of masks, in the format of `sha256sum --check`
TRIAL = re.compile(r"trial-([0-9]{4,})")


def mask_path(masks: Path, draw: Draw, image: str) -> Path:
    """Return the path of a predicted mask in the masks folder of a run."""
    return masks.joinpath(*(f"{key}-{value}" for key, value in draw)) / f"{image}.png"


@dataclass(frozen=True)
class Store:
    """A results folder."""

    root: Path

    def refuse_if_read_only(self) -> None:
        """Check that results can be written.

        Raises:
            BenchError: the folder is not writable.
        """
        folder = self.root / "work"
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY):
                pass

    def folder(self, run_id: str) -> Path:
        """Return the folder of a committed run."""
        return self.root / "runs" / run_id[:2] / run_id

    def work(self, run_id: str) -> Path:
        """Return the folder of an unfinished run."""
        return self.root / "work" / run_id

    @contextmanager
    def lock(self, run_id: str, on_wait: Callable[[], object]) -> Iterator[None]:
        """Lock a run for this process; `on_wait` is called before waiting for another process."""
        path = self.root / "work" / f"{run_id}.lock"
        with ExitStack() as stack:
            with write_errors(path):
                stack.enter_context(locked(path, on_wait))
            yield

    def find(self, run_id: str) -> Record | None:
        """Return a committed run, or None if it does not exist.

        A damaged record, or the record of another run, is moved to `quarantine/`, so that the run
        can be repeated.

        Raises:
            BenchError: the record is unreadable or has another schema; it is left unchanged.
        """
        try:
            return _read_record(self.folder(run_id) / "record.json")
        except Damaged:
            quarantine = self.root / "quarantine" / f"{run_id}-{time.time_ns()}"
            with write_errors(quarantine), suppress(FileNotFoundError):  # moved by another process
                quarantine.parent.mkdir(parents=True, exist_ok=True)
                self.folder(run_id).rename(quarantine)
            return None

    def repeats(self, spec: RunSpec) -> int:
        """Return the number of committed runs of an identity, which is its next repeat number."""
        number = 0
        while self.find(identify(replace(spec, repeat=number))) is not None:
            number += 1
        return number

    def context(self, run_id: str) -> dict:
        """Return the time, environment and duration of a committed run; empty if unknown."""
        try:
            return _read_json(self.folder(run_id) / "context.json")
        except BenchError:
            return {}

    def records(self) -> Iterator[Record | BenchError]:
        """Yield every committed run, oldest first; damaged records are yielded as errors."""
        paths = sorted(self.root.glob("runs/??/*/record.json"))
        when = {path: str(self.context(path.parent.name).get("finished", "")) for path in paths}
        for path in sorted(paths, key=lambda path: (when[path], path)):
            try:
                record = _read_record(path)
            except BenchError as error:
                record = error
            if record is not None:
                yield record

    def commit_masks(self, run_id: str) -> None:
        """Move the masks of an unfinished run next to its record atomically, with their hashes."""
        new, masks = self.work(run_id) / "masks", self.folder(run_id) / "masks"
        if new.is_dir():
            with write_errors(masks):
                write_bytes(new / SUMS, _sums(new))
                if masks.is_dir():  # left by a process that was killed before the commit
                    shutil.rmtree(masks)
                masks.parent.mkdir(parents=True, exist_ok=True)
                new.rename(masks)

    def commit(self, record: Record, context: Mapping[str, object]) -> bool:
        """Write a run unless it exists, and remove its work folder.

        Returns:
            Whether this call wrote it.
        """
        folder = self.folder(record.run_id)
        write_bytes(folder / "context.json", canonical(context) + b"\n", replace=False)
        written = write_bytes(folder / "record.json", to_bytes(record), replace=False)
        self.clear(record.run_id)
        return written

    def clear(self, run_id: str) -> None:
        """Remove the work folder and the lock file of a run."""
        shutil.rmtree(self.work(run_id), ignore_errors=True)
        with suppress(OSError):  # some systems do not remove an open file
            (self.root / "work" / f"{run_id}.lock").unlink(missing_ok=True)

    def delete(self, run_id: str, on_wait: Callable[[], object]) -> None:
        """Delete a run: its record, context and masks, or the remains of an unfinished one.

        Waits for a process that computes the run. The folder is moved before it is emptied, so that
        a process that is killed leaves no part of a run among the committed ones.
        """
        folder, work = self.folder(run_id), self.work(run_id)
        with self.lock(run_id, on_wait), write_errors(folder):
            if folder.exists():
                work.mkdir(parents=True, exist_ok=True)
                folder.rename(work / f"deleted-{time.time_ns()}")
            if work.exists():
                shutil.rmtree(work)
            with suppress(OSError):
                folder.parent.rmdir()  # if it is empty
            self.clear(run_id)

    def save_trial(self, run_id: str, number: int, result: TrialResult) -> None:
        """Save a finished trial, so that an interrupted run can resume."""
        path = self.work(run_id) / f"trial-{number:04d}.json"
        write_bytes(path, canonical(result.to_json()) + b"\n")

    def load_trials(self, run_id: str) -> dict[int, TrialResult]:
        """Return the saved trials of an unfinished run by number, without unreadable ones."""
        trials = {}
        for path in self.work(run_id).glob("*.json"):
            match = TRIAL.fullmatch(path.stem)
            trial = read_trial(path) if match else None
            if match and trial is not None:
                trials[int(match[1])] = trial
        return trials

    def fail(self, run_id: str, spec: RunSpec, reason: str) -> None:
        """Save the reason of a failed run, which boards report."""
        body = {"run_id": run_id, "spec": spec.to_json(), "reason": reason}
        write_bytes(self.work(run_id) / "failed.json", canonical(body) + b"\n")

    def unfinished(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Yield the id of every failed or unfinished run, and its identity and reason if stored."""
        for folder in sorted(self.root.glob("work/*/")):
            try:
                yield folder.name, _read_json(folder / "failed.json")
            except BenchError:
                yield folder.name, {}

    def failures(self) -> list[str]:
        """Describe the failed runs that did not succeed later, one line each."""
        return [_failure(path) for path in sorted(self.root.glob("work/*/failed.json"))]


def _sums(folder: Path) -> bytes:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [f"{sha256_of((folder / name).read_bytes())}  {name}\n" for name in names]
    return "".join(lines).encode()


def read_sums(masks: Path) -> dict[Path, str]:
    """Return the stored sha256 of each mask in a folder; empty if there are none."""
    try:
        lines = (read_bytes(masks / SUMS) or b"").decode().splitlines()
    except (BenchError, ValueError):
        return {}
    pairs = (line.partition("  ") for line in lines)
    return {masks / name: sha256 for sha256, _, name in pairs}


def read_trial(path: Path) -> TrialResult | None:
    """Read a saved trial; None if it is unreadable or has another format."""
    try:
        return trial_from(_read_json(path))
    except (BenchError, LookupError, TypeError, AttributeError, ValueError):
        return None


def _failure(path: Path) -> str:
    try:
        body = _read_json(path)
        names = [body["spec"][kind]["name"] for kind in ("backbone", "dataset", "protocol")]
        return f"{' · '.join(names)} ({body['run_id']}): {body['reason']}"
    except (BenchError, KeyError, TypeError):
        return f"{path.parent.name}: the reason of its failure is unreadable"


def _read_record(path: Path) -> Record | None:
    """Read the record of the run that the folder is named after; None if it does not exist.

    Raises:
        Damaged: the record was changed, or belongs to another run.
        BenchError: the record is unreadable, or has another schema.
    """
    content = read_bytes(path)
    if content is None:
        return None
    record = from_bytes(content, str(path))
    if record.run_id != path.parent.name:
        raise Damaged(f"{path} is the record of another run, {record.run_id}")
    return record


def _read_json(path: Path) -> dict:
    try:
        body = json.loads(read_bytes(path) or b"")
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise BenchError(f"{path} does not contain a JSON object")
    return body
