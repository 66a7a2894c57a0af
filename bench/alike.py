"""Which runs may be compared: those that differ in what is asked to vary, all else equal.

What was scored, by the hash of its images and labels, and the version of the metrics are always
shared: no choice of the user pools runs that differ in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.board import dataset_name, label, part, recipe
from bench.errors import BenchError
from bench.record import Record, canonical

ALWAYS = ("dataset", "scored", "metrics_version")
MAY_VARY = {  # by the word of `--vary`: the parts of a run's identity that it frees
    "backbone": ("backbone", "recipe", "ttt", "view", "precision"),
    "head": ("head",),
    "protocol": ("protocol",),
}


def check_vary(vary: Sequence[str]) -> None:
    """Refuse words that `--vary` does not know, or none."""
    wrong = [word for word in vary if word not in MAY_VARY]
    if wrong or not vary:
        told = f"{wrong[0]!r} is not" if wrong else "is empty: give"
        raise BenchError(f"--vary {told} one or more of {', '.join(MAY_VARY)}.")


def shared(record: Record, vary: Sequence[str]) -> dict[str, object]:
    """Give what a run must share with those that it may be compared with, by name."""
    fixed = [name for word, parts in MAY_VARY.items() if word not in vary for name in parts]
    return {name: record.spec[name] for name in (*ALWAYS, *fixed)}


def same(a: Record, b: Record, vary: Sequence[str]) -> bool:
    """Tell whether two runs may be compared."""
    return a.images == b.images and _key(a, vary) == _key(b, vary)


def _key(record: Record, vary: Sequence[str]) -> bytes:
    return canonical(shared(record, vary))


def unlike(a: Record, b: Record, vary: Sequence[str]) -> list[str]:
    """Say why two runs may not be compared, a reason each; none where they may.

    Something that `--vary` could free is told with that cure.
    """
    reasons = []
    if a.spec["metrics_version"] != b.spec["metrics_version"]:
        versions = f"{a.spec['metrics_version']} and {b.spec['metrics_version']}"
        reasons.append(f"their counts are of other metrics (metrics_version {versions})")
    if _differ(a, b, "scored"):
        reasons.append(f"they were scored on other data ({_data(a, 'scored', b)})")
    elif a.images != b.images:
        only = len(set(a.images) ^ set(b.images))
        reasons.append(f"they were scored on other images ({only} are of one of them alone)")
    if _differ(a, b, "dataset"):
        reasons.append(f"they were trained on other data ({_data(a, 'dataset', b)})")
    for word, parts in MAY_VARY.items():
        if word not in vary and any(_differ(a, b, name) for name in parts):
            cure = ",".join([*vary, word])
            told = f"{_words(a, word)} and {_words(b, word)}"
            reasons.append(f"they differ in their {word} ({told}): `--vary {cure}` compares them")
    return reasons


def aside(a: Record, b: Record) -> list[str]:
    """Tell how the training of two runs differs beside their names: what a reader would ask."""
    told = []
    for name, of in (("input", _view), ("training", lambda each: recipe(each) or "its own")):
        if of(a) != of(b):
            told.append(f"{name}: {of(a)} and {of(b)}")
    return told


def protocol_words(record: Record) -> str:
    """Name the protocol of a run with its settings."""
    settings = dict(part(record, "protocol"))
    name, folds = settings.pop("name"), settings.pop("folds")
    words = [f"{key} {value}" for key, value in settings.items() if key != "seed" or value]
    words.append(f"{folds} folds by patient" if folds else "official split")
    return f"{name} ({', '.join(words)})"


def _differ(a: Record, b: Record, name: str) -> bool:
    return canonical({"": a.spec[name]}) != canonical({"": b.spec[name]})


def _words(record: Record, word: str) -> str:
    words = {
        "backbone": lambda: f"{label(record)} at {_view(record)}",
        "head": lambda: str(part(record, "head")["name"]),
        "protocol": lambda: protocol_words(record),
    }
    return words[word]()


def _data(a: Record, name: str, b: Record) -> str:
    return " and ".join(f"{dataset_name(each)} {_hash(part(each, name))}" for each in (a, b))


def _hash(content: Mapping[str, object]) -> str:
    return str(content["sha256"])[:8]


def _view(record: Record) -> str:
    view = part(record, "view")
    return f"{view['kind']} {view['px']} px"
