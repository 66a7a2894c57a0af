"""Two runs side by side: which two are meant, how they differ, and on which images most."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from bench import board
from bench.alike import aside, unlike
from bench.board import BoardOptions, counted, label, scores_of_images
from bench.differences import Difference
from bench.errors import BenchError
from bench.pick import comparable, named, too_many
from bench.record import Record


@dataclass(frozen=True)
class ImagePair:
    """One image and what two runs score on it; few-shot scores are averaged over draws."""

    image: str
    patient: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """The score of the first run minus that of the second."""
        return self.a - self.b


@dataclass(frozen=True)
class Contrast:
    """How two runs differ.

    Attributes:
        differences: the first minus the second, by score.
        metric: the score of `images`.
        images: every image, those that differ most first.
        notes: what must be known of it.
    """

    a: Record
    b: Record
    differences: Mapping[str, Difference]
    metric: str
    images: Sequence[ImagePair]
    notes: Sequence[str]


def choose(
    records: Sequence[Record],
    words: tuple[str, str],
    options: BoardOptions,
    kept: Container[str] | None = None,
) -> tuple[Record, Record]:
    """Find the two runs that are meant, by ids or by names of backbones.

    Args:
        kept: ids of the runs that are taken where the two can be of them alone.

    Raises:
        BenchError: there is no such pair, several fit, or the two may not be compared.
    """
    first, second = (named(records, word, options) for word in words)
    pairs = comparable(records, words, options, kept)
    if len(pairs) == 1:
        a, b = pairs[0]
        return a, b
    if pairs:
        raise too_many(pairs, words)
    raise BenchError(_no_pair(first, second, options))


def _no_pair(first: Sequence[Record], second: Sequence[Record], options: BoardOptions) -> str:
    if {each.run_id for each in first} == {each.run_id for each in second} and len(first) == 1:
        return f"both are the run {first[0].run_id}: there is nothing to compare."
    reasons = [
        (a, b, unlike(a, b, options.vary)) for a in first for b in second if a.run_id != b.run_id
    ]
    a, b, why = min(reasons, key=lambda each: len(each[2]))
    others = len(reasons) - 1
    more = f" So it is with {others} other pairs, or worse." if others else ""
    return f"{a.run_id} and {b.run_id} may not be compared: {'; '.join(why)}.{more}"


def contrast(a: Record, b: Record, metric: str, vary: Sequence[str]) -> Contrast:
    """Compare two runs on the images that both scored.

    Args:
        metric: tells on which images they differ most.

    Raises:
        BenchError: they may not be compared, or the score is unknown or was not counted by both.
    """
    if why := unlike(a, b, vary):
        raise BenchError(f"{a.run_id} and {b.run_id} may not be compared: {'; '.join(why)}.")
    own, other = (scores_of_images(each, metric).mean(axis=0) for each in (a, b))  # (n,) each
    images = [
        ImagePair(image, a.patients[image], float(x), float(y))
        for image, x, y in zip(a.images, own, other, strict=True)
    ]
    both = [name for name in counted(a) if name in counted(b)]
    names = dict.fromkeys([metric, *both])
    return Contrast(
        a=a,
        b=b,
        differences={name: board.difference(a, b, name) for name in names},
        metric=metric,
        images=by_difference(images),
        notes=_notes(a, b),
    )


def by_difference(images: Sequence[ImagePair]) -> list[ImagePair]:
    """Sort images, those on which two runs differ most first."""
    return sorted(images, key=lambda each: (-abs(each.difference), each.image))


def _notes(a: Record, b: Record) -> list[str]:
    notes = ["p of each score alone: not adjusted for the number of scores"]
    if a.draws and a.draws[0]:
        notes.append("scores averaged over draws: the differences hold for these support sets")
    notes += [f"they differ in more than their names: {each}" for each in aside(a, b)]
    flags = {label(each): each.flags for each in (a, b) if each.flags}
    return notes + [f"{name}: {', '.join(own)}" for name, own in flags.items()]


def as_json(found: Contrast, worst: int) -> dict[str, object]:
    """Give a comparison for machines."""
    from bench.display import differences_json

    return {
        "a": _run_json(found.a),
        "b": _run_json(found.b),
        "n_images": len(found.images),
        "n_patients": len(set(found.a.patients.values())),
        "differences": differences_json(found.differences),
        "metric": found.metric,
        "images": [vars(each) | {"difference": each.difference} for each in found.images[:worst]],
        "notes": list(found.notes),
    }


def _run_json(record: Record) -> dict[str, object]:
    head = board.part(record, "head")["name"]
    return {"run_id": record.run_id, "backbone": label(record), "head": head}
