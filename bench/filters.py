"""Filter runs by data set, protocol, head and shots, and report filters that match no run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.board import BoardOptions, dataset_name, label, part
from bench.errors import BenchError, did_you_mean
from bench.record import Record

AT = "@"  # separates the name of a folder from the SHA-256 of its contents


def listed(text: str | None) -> tuple[str, ...]:
    """Split comma-separated words, without blanks and duplicates; None is an empty list."""
    words = [word.strip() for word in (text or "").split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


def data_sets(text: str | None) -> tuple[str, ...]:
    """Parse comma-separated names or folders of data sets; a folder becomes "NAME@SHA256".

    Raises:
        BenchError: a folder does not exist, or is not a data set.
    """
    return tuple(_contents(word) if _is_path(word) else word for word in listed(text))


def only_folder(text: str | None) -> Path | None:
    """Return the folder if the list of data sets is a single folder, else None."""
    words = listed(text)
    return _folder(words[0]) if len(words) == 1 and _is_path(words[0]) else None


def wanted(record: Record, options: BoardOptions) -> bool:
    """Return whether a leaderboard shows a run: it matches the filters and is no smoke test."""
    if "smoke" in record.flags or options.shots not in (None, _shots(record)):
        return False
    filters = {"dataset": options.dataset, "protocol": options.protocol, "head": options.head}
    return all(set(NAMES[name](record)) & set(words) for name, words in filters.items() if words)


def refuse_unmatched(records: Sequence[Record], options: BoardOptions) -> None:
    """Check that each filter and the reference match a run; a store without runs passes.

    Raises:
        BenchError: a filter or the reference matches no run.
    """
    runs = [record for record in records if "smoke" not in record.flags]
    if not runs:
        return
    for name, words in (
        ("dataset", options.dataset),
        ("protocol", options.protocol),
        ("head", options.head),
        ("shots", () if options.shots is None else (str(options.shots),)),
    ):
        _refuse(name, words, [NAMES[name](record) for record in runs])
    shown = [NAMES["reference"](record) for record in runs if wanted(record, options)]
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
    from bench.folder import manifest_sha256
    from bench.manifest import read_rows

    root = _folder(word)
    read_rows(root)
    return f"{root.name}{AT}{manifest_sha256(root)}"


def _data_set_names(record: Record) -> list[str]:
    name = dataset_name(record)
    return [name, f"{name}{AT}{part(record, 'dataset')['sha256']}"]


def _shots(record: Record) -> object:
    return part(record, "protocol").get("shots")


NAMES: dict[str, Callable[[Record], list[str]]] = {  # names of a run by filter, plain name first
    "dataset": _data_set_names,
    "protocol": lambda record: [str(part(record, "protocol")["name"])],
    "head": lambda record: [str(part(record, "head")["name"])],
    "shots": lambda record: [] if _shots(record) is None else [str(_shots(record))],
    "reference": lambda record: [label(record), str(part(record, "backbone")["name"])],
}
