"""The contents of a results folder: committed, damaged, failed and unfinished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.spec import RunSpec
from bench.board.comparable import settings
from bench.board.scores import dataset_name, label, names
from bench.board.select import check_filters, is_id, passes_filters, read_all
from bench.errors import BenchError, did_you_mean
from bench.store.results import Store

COMMITTED, DAMAGED, FAILED, UNFINISHED = "committed", "damaged", "failed", "unfinished"


@dataclass(frozen=True)
class StoredRun:
    """A run in a results folder.

    Attributes:
        record: None if it is unknown; that of a failed run has no trials.
        state: COMMITTED, DAMAGED, FAILED or UNFINISHED (perhaps running).
        reason: why it failed.
        date: when it was committed, in ISO format; "" if unknown.
        has_masks: whether the predicted masks are saved.
    """

    run_id: str
    record: Record | None
    state: str
    reason: str = ""
    date: str = ""
    has_masks: bool = False

    @property
    def fields(self) -> dict[str, object]:
        """The description of the run, by name."""
        record = self.record
        words = settings(record) if record else {}
        names = ("protocol", "head", "recipe", "view")
        return {
            "run_id": self.run_id,
            "date": self.date,
            "state": self.state,
            "backbone": words.get("backbone", ""),
            "dataset": dataset_name(record) if record else "",
            **{name: words.get(name, "") for name in names},
            "flags": list(record.flags) if record else [],
            "masks": self.has_masks,
            "reason": self.reason,
        }


def stored_runs(results: Path) -> list[StoredRun]:
    """Return all runs of a results folder: committed runs, oldest first, then the others.

    Raises:
        BenchError: `results` is a file.
    """
    records, _ = read_all(results)
    store, runs = Store(results), []
    for record in records:
        date = str(store.context(record.run_id).get("finished", ""))
        has_masks = (store.folder(record.run_id) / "masks").is_dir()
        runs.append(StoredRun(record.run_id, record, COMMITTED, "", date, has_masks))
    committed = {record.run_id for record in records}
    folders = [path.name for path in sorted(results.glob("runs/??/*/"))]
    runs += [StoredRun(run_id, None, DAMAGED) for run_id in folders if run_id not in committed]
    for run_id, failure in store.unfinished():
        if run_id not in folders:
            reason = str(failure.get("reason", ""))
            state = FAILED if reason else UNFINISHED
            runs.append(StoredRun(run_id, _without_trials(failure.get("spec")), state, reason))
    return runs


def filtered(runs: Sequence[StoredRun], options: BoardOptions) -> list[StoredRun]:
    """Return the runs that match the filters; without filters, all.

    Raises:
        BenchError: a filter matches no run.
    """
    if not (options.dataset or options.protocol or options.head):
        return list(runs)
    known = [run.record for run in runs if run.record is not None]
    check_filters(known, options, smoke=True)
    return [run for run in runs if run.record is not None and passes_filters(run.record, options)]


def selected(runs: Sequence[StoredRun], words: Sequence[str]) -> list[StoredRun]:
    """Return the runs that words select: ids, unique prefixes of ids, or names of backbones.

    Raises:
        BenchError: a word selects no run, or is a prefix of several ids.
    """
    chosen = {run.run_id: run for word in words for run in _matching(runs, word)}
    return [run for run in runs if run.run_id in chosen]


def _matching(runs: Sequence[StoredRun], word: str) -> list[StoredRun]:
    known = [(run, run.record) for run in runs if run.record is not None]
    for kind in (0, 1):
        if named := [run for run, record in known if word in names(record)[kind]]:
            return named
    ids = [run for run in runs if is_id(word) and run.run_id.startswith(word)]
    if len(ids) == 1:
        return ids
    if ids:
        listed = ", ".join(run.run_id for run in ids)
        raise BenchError(f"{len(ids)} runs start with {word!r}: {listed}. Give more digits.")
    hint = did_you_mean(word, {label(record) for _, record in known})
    raise BenchError(
        f"no run {word!r} here.{hint} Give the id of a run, a prefix of one, or the name of a "
        "backbone; `bench runs list` shows them."
    )


def _without_trials(spec: object) -> Record | None:
    """Return a record of the identity of a failed run; None if it cannot be read."""
    try:
        identity = RunSpec.from_json(spec)
    except BenchError:
        return None
    facts = {"dataset": identity.dataset.name or "?", "scored": identity.scored.name or "?"}
    return Record(identity, facts, patients={}, flags=(), trials=())
