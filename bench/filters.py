"""Which runs of a store are asked for, by data set, protocol, head and shots; and typing errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.board import BoardOptions, dataset_name, label, part
from bench.errors import BenchError, did_you_mean
from bench.record import Record

AT = "@"  # between the name of a folder and the sha256 of what it holds


def listed(text: str | None) -> tuple[str, ...]:
    """Read a list of words with commas between them; None is the empty one."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, (text or "").split(",")))))


def data_sets(text: str | None) -> tuple[str, ...]:
    """Read a list of data sets, names or folders; a folder stands for its name and contents.

    Raises:
        BenchError: a folder is not there, or is no data set.
    """
    return tuple(_contents(word) if _is_place(word) else word for word in listed(text))


def only_folder(text: str | None) -> Path | None:
    """Give the folder where a list of data sets is just one, so that its images are found there."""
    words = listed(text)
    return _folder(words[0]) if len(words) == 1 and _is_place(words[0]) else None


def wanted(record: Record, options: BoardOptions) -> bool:
    """Tell whether a board shows a run: it is of the names that were asked for, and no smoke."""
    if "smoke" in record.flags or options.shots not in (None, _shots(record)):
        return False
    asked = {"dataset": options.dataset, "protocol": options.protocol, "head": options.head}
    return all(set(NAMES[name](record)) & set(words) for name, words in asked.items() if words)


def refuse_unmatched(records: Sequence[Record], options: BoardOptions) -> None:
    """Raise a BenchError where a filter, or the reference, names what no run is of.

    A store without runs refuses nothing: there are no names to choose from.
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


def _refuse(name: str, words: Sequence[str], there: Sequence[Sequence[str]]) -> None:
    known = {each for names in there for each in names}
    plain = {names[0] for names in there if names}
    for word in words:
        if word in known:
            continue
        folder, at, sha256 = word.partition(AT)
        if name == "dataset" and at and folder in plain:
            raise BenchError(
                f"--dataset: no run is of what the folder {folder} now holds ({sha256[:8]}); there "
                f"are runs on other contents of that name. `--dataset {folder}` shows them."
            )
        own = folder if name == "dataset" else word
        told = f"There are: {', '.join(sorted(plain))}." if plain else "No run has any."
        raise BenchError(f"--{name} {own}: no run is of it.{did_you_mean(own, plain)} {told}")


def _is_place(word: str) -> bool:
    return Path(word).name != word or word == ".."


def _folder(word: str) -> Path:
    return Path(word).expanduser().resolve()


def _contents(word: str) -> str:
    from bench.folder import manifest_sha256
    from bench.manifest import read_rows

    root = _folder(word)
    read_rows(root)
    return f"{root.name}{AT}{manifest_sha256(root)}"


def _data_set(record: Record) -> list[str]:
    name = dataset_name(record)
    return [name, f"{name}{AT}{part(record, 'dataset')['sha256']}"]


def _shots(record: Record) -> object:
    return part(record, "protocol").get("shots")


NAMES: dict[str, Callable[[Record], list[str]]] = {  # what a run is called, the plain name first
    "dataset": _data_set,
    "protocol": lambda record: [str(part(record, "protocol")["name"])],
    "head": lambda record: [str(part(record, "head")["name"])],
    "shots": lambda record: [str(own)] if (own := _shots(record)) is not None else [],
    "reference": lambda record: [label(record), str(part(record, "backbone")["name"])],
}
