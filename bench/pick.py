"""Find committed runs by what a user calls them: an id, the start of one, or names."""

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

SHORTEST = 4  # digits of an id
SHOWN = 8  # runs in a complaint


def read_all(results: Path) -> tuple[list[Record], list[BenchError]]:
    """Give the committed runs of a folder of results, oldest first, and those beyond reading.

    These are damaged, or of a version whose runs cannot be shown.

    Raises:
        BenchError: it is a file.
    """
    if results.is_file():
        raise BenchError(f"{results} is a file; --results takes a folder.")
    records: list[Record] = []
    damaged: list[BenchError] = []
    with _no_collection():
        for each in Store(results).records():
            if isinstance(each, BenchError):
                damaged.append(each)
            elif problem := refusal(each):
                damaged.append(problem)
            else:
                records.append(each)
    return records, damaged


@contextmanager
def _no_collection() -> Iterator[None]:
    """Do not look for garbage among a million objects that are all kept: it takes a third more."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def latest(records: Sequence[Record]) -> list[Record]:
    """Keep the last of the runs of one request, repeated or made by other versions of the code."""
    kept: dict[bytes, Record] = {}
    for record in records:
        kept[record.request] = record
    return list(kept.values())


def by_id(records: Sequence[Record], word: str) -> Record | None:
    """Find a run by its id, or by the start of it that no other has; None where none has it.

    Raises:
        BenchError: several ids start so.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},16}}", word):
        return None
    found = [record for record in records if record.run_id.startswith(word)]
    if len(found) > 1:
        raise BenchError(f"{len(found)} runs start with {word!r}:\n{told(found)}\nGive more of it.")
    return found[0] if found else None


def meant(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Find the runs that a word means: those of a backbone on a board, else that of an id.

    Raises:
        BenchError: several ids start so.
    """
    own = [each for each in latest(records) if wanted(each, options) and word in _names(each)]
    one = None if own else by_id(records, word)
    return own if one is None else [one]


def named(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Find the runs that a word means, as `meant` does.

    Raises:
        BenchError: there are none, a filter names what no run is of, or several ids start so.
    """
    refuse_unmatched(records, options)
    if own := meant(records, word, options):
        return own
    known = {name for each in records if wanted(each, options) for name in _names(each)}
    ran = f"backbones that ran: {', '.join(sorted(known))}" if known else "no run fits the filters"
    raise BenchError(
        f"no run {word!r} here.{did_you_mean(word, known)} Give a backbone or (the start of) the "
        f"id of a run; {ran}. `bench leaderboard --json` lists all runs, `bench run` makes one."
    )


def comparable(
    records: Sequence[Record],
    words: Sequence[str],
    options: BoardOptions,
    kept: Container[str] | None = None,
) -> list[tuple[Record, ...]]:
    """Find the choices of a run for each word that may all be compared.

    Args:
        kept: ids of the runs that are taken where such a choice can be made of them alone.
    """
    if kept is not None:
        own = [each for each in records if each.run_id in kept]
        if found := comparable(own, words, options):
            return found
    return [
        runs
        for runs in product(*(meant(records, word, options) for word in words))
        if len({run.run_id for run in runs}) == len(runs)
        and all(same(runs[0], other, options.vary) for other in runs[1:])
    ]


def too_many(choices: Sequence[Sequence[Record]], words: Sequence[str]) -> BenchError:
    """Complain that words mean several choices of runs."""
    runs = {run.run_id: run for each in choices for run in each}
    return BenchError(
        f"{len(choices)} choices of runs fit {', '.join(words)}:\n{told([*runs.values()])}\n"
        "Name them by id, or narrow the choice by dataset, protocol, head or shots (--dataset "
        "NAME, in Python dataset=NAME)."
    )


def told(records: Sequence[Record]) -> str:
    """Tell runs in words, a line each, for a complaint."""
    lines = [
        f"  {each.run_id}  {label(each)} · {part(each, 'head')['name']} head · "
        f"{dataset_name(each)} · {protocol_words(each)}"
        for each in records[:SHOWN]
    ]
    more = len(records) - SHOWN
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def _names(record: Record) -> tuple[str, str]:
    return label(record), str(part(record, "backbone")["name"])
