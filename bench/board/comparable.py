"""Decide which runs are comparable: runs that differ only in what `--vary` names.

Comparable runs always share the scored data, by the hash of its images and labels, the training
data and the version of the metrics, whatever `--vary` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.api.record import Record, canonical
from bench.board.scores import dataset_name, label, recipe, view
from bench.errors import BenchError

ALWAYS = ("dataset", "scored", "metrics_version")
MAY_VARY: dict[str, Callable[[Record], dict[str, object]]] = {  # by the words of `--vary`
    "backbone": lambda record: record.spec.subset("backbone", "ttt", "precision"),
    "head": lambda record: record.spec.subset("head"),
    "recipe": lambda record: {"recipe": recipe(record)},
    "view": lambda record: {"view": view(record)},
    "protocol": lambda record: record.spec.subset("protocol"),
}


def check_vary(vary: Sequence[str]) -> None:
    """Check the words of `--vary`.

    Raises:
        BenchError: unknown word, or no word.
    """
    words = ", ".join(MAY_VARY)
    if not vary:
        raise BenchError(f"--vary is empty: give one or more of {words}.")
    for word in vary:
        if word not in MAY_VARY:
            raise BenchError(f"--vary {word!r} is not one or more of {words}.")


def shared(record: Record, vary: Sequence[str]) -> dict[str, object]:
    """Return the parts of a run's identity that comparable runs must share, by name."""
    settings = record.spec.subset(*ALWAYS)
    for word, part in MAY_VARY.items():
        if word not in vary:
            settings |= part(record)
    return settings


def are_comparable(a: Record, b: Record, vary: Sequence[str]) -> bool:
    """Return whether two runs are comparable."""
    return a.images == b.images and canonical(shared(a, vary)) == canonical(shared(b, vary))


def why_not(a: Record, b: Record, vary: Sequence[str]) -> list[str]:
    """Return the reasons why two runs are not comparable; empty if they are.

    A reason that `--vary` can remove states the option.
    """
    reasons = []
    if a.spec.metrics_version != b.spec.metrics_version:
        versions = f"{a.spec.metrics_version} and {b.spec.metrics_version}"
        reasons.append(f"their counts are of different metrics (metrics_version {versions})")
    if a.spec.scored != b.spec.scored:
        reasons.append(f"they were scored on different data ({_data(a, b, 'scored')})")
    elif a.images != b.images:
        unshared = len(set(a.images) ^ set(b.images))
        reasons.append(f"they were scored on different images ({unshared} are in only one of them)")
    if a.spec.dataset != b.spec.dataset:
        reasons.append(f"they were trained on different data ({_data(a, b, 'dataset')})")
    for word, part in MAY_VARY.items():
        if word not in vary and canonical(part(a)) != canonical(part(b)):
            option = ",".join([*vary, word])
            values = f"{settings(a)[word]} and {settings(b)[word]}"
            reasons.append(
                f"they differ in their {word} ({values}): `--vary {option}` compares them"
            )
    return reasons


def settings(record: Record) -> dict[str, str]:
    """Describe what the words of `--vary` mean for a run, by word."""
    return {
        "backbone": label(record),
        "head": record.spec.head.name,
        "recipe": recipe(record) or "none",
        "view": view(record),
        "protocol": protocol_words(record),
    }


def protocol_words(record: Record) -> str:
    """Return the protocol of a run with its settings, as text."""
    protocol = record.spec.protocol
    words = [
        f"{key} {value}"
        for key, value in protocol.options.items()
        if key != "folds" and (key != "seed" or value)
    ]
    words.append(f"{protocol.folds} folds by patient" if protocol.folds else "official split")
    return f"{protocol.name} ({', '.join(words)})"


def _data(a: Record, b: Record, name: str) -> str:
    names = [f"{dataset_name(record)} {getattr(record.spec, name).sha256[:8]}" for record in (a, b)]
    return " and ".join(names)
