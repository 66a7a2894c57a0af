"""Find committed runs by what a user calls them: an id, the start of one, or names."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.alike import protocol_words
from bench.board import BoardOptions, dataset_name, label, part
from bench.errors import BenchError
from bench.fields import refusal
from bench.record import Record
from bench.store import Store

SHORTEST = 4  # digits of an id
SHOWN = 8  # runs in a complaint


def listed(text: str | None) -> tuple[str, ...]:
    """Read a list of words with commas between them; None is the empty one."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, (text or "").split(",")))))


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


def wanted(record: Record, options: BoardOptions) -> bool:
    """Tell whether a board shows a run: it is of the names that were asked for, and no smoke."""
    own = {
        dataset_name(record): options.dataset,
        str(part(record, "protocol")["name"]): options.protocol,
        str(part(record, "head")["name"]): options.head,
    }
    return "smoke" not in record.flags and all(
        name in asked for name, asked in own.items() if asked
    )


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


def named(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Find the runs that a word means: that of an id, else those of a backbone on a board.

    Raises:
        BenchError: there are none, or several ids start so.
    """
    own = [each for each in latest(records) if wanted(each, options) and word in _names(each)]
    if own:
        return own
    one = by_id(records, word)
    if one is None:
        known = sorted({label(each) for each in records if wanted(each, options)})
        ran = f"backbones that ran: {', '.join(known)}" if known else "no run fits the filters"
        raise BenchError(
            f"no run {word!r} here: give a backbone or (the start of) the id of a run; {ran}. "
            "`bench leaderboard --json` lists all runs, `bench run` makes one."
        )
    return [one]


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
