"""Select committed runs by id, by a prefix of an id, or by name."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.board.comparable import are_comparable, settings
from bench.board.scores import dataset_name, label, names
from bench.errors import BenchError, did_you_mean
from bench.store.results import Store

SHORTEST = 4  # hex digits of an id prefix
SHOWN = 8  # runs listed in an error
FILTERS = {"data set": "--dataset", "protocol": "--protocol or --shots", "head": "--head"}
AT = "@"  # separates the name of a folder from the SHA-256 of its contents


def read_all(results: Path) -> tuple[list[Record], list[BenchError]]:
    """Return the committed runs of a folder, oldest first, and the errors of unreadable ones.

    A record is unreadable if it is damaged, or of an unsupported version.

    Raises:
        BenchError: `results` is no folder.
    """
    if results.exists() and not results.is_dir():
        raise BenchError(f"{results} is no folder; --results takes a folder.")
    records: list[Record] = []
    damaged: list[BenchError] = []
    with _garbage_collection_paused():
        for record in Store(results).records():
            if isinstance(record, BenchError):
                damaged.append(record)
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
    if not is_id(word):
        return None
    matches = [record for record in records if record.run_id.startswith(word)]
    if len(matches) > 1:
        raise BenchError(
            f"{len(matches)} runs start with {word!r}:\n{list_runs(matches)}\nGive more digits."
        )
    return matches[0] if matches else None


def is_id(word: str) -> bool:
    """Return whether a word can be the id of a run or a prefix of one."""
    return re.fullmatch(rf"[0-9a-f]{{{SHORTEST},16}}", word) is not None


def matching_runs(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Return the runs of a backbone on a leaderboard; else the run with this id, if there is one.

    A word that is the label of runs ("cmd-tiny") does not select those of the same backbone with
    other options or weights ("cmd-tiny (random)").

    Raises:
        BenchError: several ids have this prefix.
    """
    shown = [record for record in latest(records) if is_shown(record, options)]
    for kind in (0, 1):
        if matches := [record for record in shown if word in names(record)[kind]]:
            return matches
    record = by_id(records, word)
    return [] if record is None else [record]


def select_runs(records: Sequence[Record], word: str, options: BoardOptions) -> list[Record]:
    """Return the runs that a word selects, as `matching_runs` does.

    Raises:
        BenchError: no such run, a filter that matches no run, or several ids with this prefix.
    """
    check_filters(records, options)
    if matches := matching_runs(records, word, options):
        return matches
    shown = [record for record in records if is_shown(record, options)]
    known = {name for record in shown for name in (label(record), record.spec.backbone.name)}
    if known:
        available = f"backbones with runs: {', '.join(sorted(known))}"
    else:
        available = "no run matches the filters"
    raise BenchError(
        f"no run {word!r} here.{did_you_mean(word, known)} Give a backbone, or the id of a run or "
        f"its prefix; {available}. `bench leaderboard --json` lists all runs, `bench run` adds one."
    )


def comparable_choices(
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
        if choices := comparable_choices(candidates, words, options):
            return choices
    return [
        runs
        for runs in product(*(matching_runs(records, word, options) for word in words))
        if len({run.run_id for run in runs}) == len(runs)
        and all(are_comparable(runs[0], other, options.vary) for other in runs[1:])
    ]


def ambiguous(choices: Sequence[Sequence[Record]], words: Sequence[str]) -> BenchError:
    """Return the error for words that match several choices of runs, with what differs."""
    described = [[describe(run) for run in choice] for choice in choices]
    names = [
        name
        for name in described[0][0]
        if len({tuple(run[name] for run in runs) for runs in described}) > 1
    ]
    lines = []
    for choice, runs in zip(choices[:SHOWN], described, strict=False):
        ids = " ".join(run.run_id for run in choice)
        values = [f"{name} {', '.join(dict.fromkeys(run[name] for run in runs))}" for name in names]
        lines.append(f"  {ids}  {' · '.join(values)}")
    if len(choices) > SHOWN:
        lines.append(f"  and {len(choices) - SHOWN} more")
    filters = [flag for name, flag in FILTERS.items() if name in names]
    narrow = f", or narrow the choice by {' or '.join(filters)}" if filters else ""
    return BenchError(
        "\n".join(
            [
                f"{len(choices)} choices of runs match {', '.join(words)}; they differ in "
                f"{' and '.join(names)}:",
                *lines,
                f"Give the ids of one line in place of the names{narrow}.",
            ]
        )
    )


def describe(record: Record) -> dict[str, str]:
    """Describe everything by which runs can be distinguished, by name."""
    spec = record.spec
    contents = dict.fromkeys([spec.dataset.sha256[:8], spec.scored.sha256[:8]])
    return {
        "data set": dataset_name(record),
        **settings(record),
        "precision": spec.precision,
        "contents of the data": " and ".join(contents),
    }


def list_runs(records: Sequence[Record]) -> str:
    """Return a description of runs for an error, one line per run."""
    lines = [
        f"  {record.run_id}  {' · '.join([dataset_name(record), *settings(record).values()])}"
        for record in records[:SHOWN]
    ]
    if len(records) > SHOWN:
        lines.append(f"  and {len(records) - SHOWN} more")
    return "\n".join(lines)


def listed(text: str | None) -> tuple[str, ...]:
    """Split comma-separated words, without blanks and duplicates; None is an empty list."""
    words = [word.strip() for word in (text or "").split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


def data_sets(words: Sequence[str]) -> tuple[str, ...]:
    """Return names of data sets, in which the path of a folder is replaced by "NAME@SHA256".

    Raises:
        BenchError: a folder does not exist, or is not a data set.
    """
    return tuple(_contents(word) if _is_path(word) else word for word in words)


def only_folder(words: Sequence[str]) -> Path | None:
    """Return the folder if the words are the path of a single folder, else None."""
    return _folder(words[0]) if len(words) == 1 and _is_path(words[0]) else None


def is_shown(record: Record, options: BoardOptions) -> bool:
    """Return whether a leaderboard shows a run: it matches the filters and is no smoke test."""
    return "smoke" not in record.flags and passes_filters(record, options)


def passes_filters(record: Record, options: BoardOptions) -> bool:
    """Return whether a run matches the filters."""
    if options.shots not in (None, _shots(record)):
        return False
    filters = {"dataset": options.dataset, "protocol": options.protocol, "head": options.head}
    return all(set(NAMES[name](record)) & set(words) for name, words in filters.items() if words)


def check_filters(records: Sequence[Record], options: BoardOptions, *, smoke: bool = False) -> None:
    """Check that each filter and the reference match a run; a store without runs passes.

    Args:
        smoke: count smoke runs, which no leaderboard shows.

    Raises:
        BenchError: a filter or the reference matches no run.
    """
    runs = [record for record in records if smoke or "smoke" not in record.flags]
    if not runs:
        return
    for name, words in (
        ("dataset", options.dataset),
        ("protocol", options.protocol),
        ("head", options.head),
        ("shots", () if options.shots is None else (str(options.shots),)),
    ):
        _refuse(name, words, [NAMES[name](record) for record in runs])
    shown = [NAMES["reference"](record) for record in runs if is_shown(record, options)]
    if shown and options.reference is not None:
        _refuse("reference", (options.reference,), shown)


def _refuse(name: str, words: Sequence[str], names_of_runs: Sequence[Sequence[str]]) -> None:
    matching = {alias for names in names_of_runs for alias in names}
    plain = {names[0] for names in names_of_runs if names}
    for word in words:
        if word in matching:
            continue
        folder, at, sha256 = word.partition(AT)
        if name == "dataset" and at and folder in plain:
            raise BenchError(
                f"--dataset: no run matches the current contents of the folder {folder} "
                f"({sha256[:8]}); there are runs on other contents of that name. "
                f"`--dataset {folder}` shows them."
            )
        value = folder if name == "dataset" else word
        available = f"Choose from {', '.join(sorted(plain))}." if plain else "No run has any."
        hint = did_you_mean(value, plain)
        raise BenchError(f"--{name} {value}: no run matches.{hint} {available}")


def _is_path(word: str) -> bool:
    return Path(word).name != word or word == ".."


def _folder(word: str) -> Path:
    return Path(word).expanduser().resolve()


def _contents(word: str) -> str:
    from bench.data.folder import manifest_sha256
    from bench.data.manifest import read_rows

    root = _folder(word)
    return f"{root.name}{AT}{manifest_sha256(read_rows(root))}"


def _shots(record: Record) -> object:
    return record.spec.protocol.shots


NAMES: dict[str, Callable[[Record], list[str]]] = {  # names of a run by filter, plain name first
    "dataset": lambda record: [
        dataset_name(record),
        f"{dataset_name(record)}{AT}{record.spec.dataset.sha256}",
    ],
    "protocol": lambda record: [record.spec.protocol.name],
    "head": lambda record: [record.spec.head.name],
    "shots": lambda record: [] if _shots(record) is None else [str(_shots(record))],
    "reference": lambda record: [name for kind in names(record) for name in kind],
}
