"""Select committed runs by id, by a prefix of an id, or by name."""

from __future__ import annotations

import gc
import re
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from bench.alike import protocol_words, same
from bench.board import BoardOptions, dataset_name, label, part
from bench.errors import BenchError, did_you_mean
from bench.fields import refusal
from bench.filters import refuse_unmatched, wanted
from bench.record import Record
from bench.store import Store

SHORTEST = 4  # hex digits of an id prefix
SHOWN = 8  # runs listed in an error


def read_all(results: Path) -> tuple[list[Record], list[BenchError]]:
    """Return the committed runs of a folder, oldest first, and the errors of unreadable ones.

    A record is unreadable if it is damaged, or of an unsupported version.

    Raises:
        BenchError: `results` is a file.
    """
    if results.is_file():
        raise BenchError(f"{results} is a file; --results takes a folder.")
    records: list[Record] = []
    damaged: list[BenchError] = []
    with _garbage_collection_paused():
        for record in Store(results).records():
            if isinstance(record, BenchError):
                damaged.append(record)
            elif problem := refusal(record):
                damaged.append(problem)
            else:
                records.append(record)
    return records, damaged


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collector: scanning millions of live objects takes a third more time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def latest(records: Sequence[Record]) -> list[Record]:
    """Return the last run of each request, among repetitions and versions of the code."""
    last: dict[bytes, Record] = {}
    for record in records:
        last[record.request] = record
    return list(last.values())


def by_id(records: Sequence[Record], word: str) -> Record | None:
    """Return the run with an id or a unique id prefix; None if there is none.

    Raises:
        BenchError: several ids have this prefix.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},16}}", word):
        return None
    matches = [record for record in records if record.run_id.startswith(word)]
    if len(matches) > 1:
        raise BenchError(
            f"{len(matches)} runs start with {word!r}:\n{told(matches)}\nGive more digits."
        )
    return matches[0] if matches else None


def meant(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Return the runs of a backbone on a leaderboard; else the run with this id, if there is one.

    Raises:
        BenchError: several ids have this prefix.
    """
    matches = [
        record for record in latest(records) if wanted(record, options) and word in _names(record)
    ]
    if matches:
        return matches
    record = by_id(records, word)
    return [] if record is None else [record]


def named(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Return the runs that a word selects, as `meant` does.

    Raises:
        BenchError: no such run, a filter that matches no run, or several ids with this prefix.
    """
    refuse_unmatched(records, options)
    if matches := meant(records, word, options):
        return matches
    names = {name for record in records if wanted(record, options) for name in _names(record)}
    if names:
        available = f"backbones with runs: {', '.join(sorted(names))}"
    else:
        available = "no run matches the filters"
    raise BenchError(
        f"no run {word!r} here.{did_you_mean(word, names)} Give a backbone, or the id of a run or "
        f"its prefix; {available}. `bench leaderboard --json` lists all runs, `bench run` adds one."
    )


def comparable(
    records: Sequence[Record],
    words: Sequence[str],
    options: BoardOptions,
    preferred: Container[str] | None = None,
) -> list[tuple[Record, ...]]:
    """Return all choices of one run per word in which the runs are comparable.

    Args:
        preferred: ids of preferred runs: other runs are only used if these allow no choice.
    """
    if preferred is not None:
        candidates = [record for record in records if record.run_id in preferred]
        if choices := comparable(candidates, words, options):
            return choices
    return [
        runs
        for runs in product(*(meant(records, word, options) for word in words))
        if len({run.run_id for run in runs}) == len(runs)
        and all(same(runs[0], other, options.vary) for other in runs[1:])
    ]


def too_many(choices: Sequence[Sequence[Record]], words: Sequence[str]) -> BenchError:
    """Return the error for words that match several choices of runs."""
    runs = {run.run_id: run for choice in choices for run in choice}
    return BenchError(
        f"{len(choices)} choices of runs match {', '.join(words)}:\n{told([*runs.values()])}\n"
        "Name them by id, or narrow the choice by dataset, protocol, head or shots (--dataset "
        "NAME, in Python dataset=NAME)."
    )


def told(records: Sequence[Record]) -> str:
    """Return a description of runs for an error, one line per run."""
    lines = [
        f"  {record.run_id}  {label(record)} · {part(record, 'head')['name']} head · "
        f"{dataset_name(record)} · {protocol_words(record)}"
        for record in records[:SHOWN]
    ]
    if len(records) > SHOWN:
        lines.append(f"  and {len(records) - SHOWN} more")
    return "\n".join(lines)


def _names(record: Record) -> tuple[str, str]:
    return label(record), str(part(record, "backbone")["name"])
