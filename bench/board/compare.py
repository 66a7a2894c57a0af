"""Compare two runs: select them, test their differences, and list the images that differ most."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from bench.api.board import BoardOptions, Difference
from bench.api.record import Record
from bench.api.report import several
from bench.board import scores
from bench.board.comparable import why_not
from bench.board.scores import counted, label, scores_of_images
from bench.board.select import ambiguous, comparable_choices, select_runs
from bench.errors import BenchError


@dataclass(frozen=True)
class ImagePair:
    """The scores of two runs on one image; few-shot scores are averaged over draws."""

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
    """The comparison of two runs.

    Attributes:
        differences: a minus b, by score.
        metric: the score of `images`.
        images: all images, largest absolute difference first.
        notes: caveats of the comparison.
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
    preferred: Container[str] | None = None,
) -> tuple[Record, Record]:
    """Select two comparable runs by ids or by names of backbones.

    Args:
        preferred: ids of preferred runs: other runs are only used if these contain no such pair.

    Raises:
        BenchError: no such pair, several such pairs, or runs that may not be compared.
    """
    first, second = (select_runs(records, word, options) for word in words)
    pairs = comparable_choices(records, words, options, preferred)
    if len(pairs) == 1:
        a, b = pairs[0]
        return a, b
    if pairs:
        raise ambiguous(pairs, words)
    raise BenchError(_no_pair(first, second, options))


def _no_pair(first: Sequence[Record], second: Sequence[Record], options: BoardOptions) -> str:
    if len(first) == 1 and [run.run_id for run in second] == [first[0].run_id]:
        return f"both are the run {first[0].run_id}: there is nothing to compare."
    pairs = [
        (a, b, why_not(a, b, options.vary)) for a in first for b in second if a.run_id != b.run_id
    ]
    a, b, reasons = min(pairs, key=lambda pair: len(pair[2]))
    more = (
        f" {several(len(pairs) - 1, 'other pair')} may not be compared." if len(pairs) > 1 else ""
    )
    return f"{a.run_id} and {b.run_id} may not be compared: {'; '.join(reasons)}.{more}"


def contrast(a: Record, b: Record, metric: str, vary: Sequence[str]) -> Contrast:
    """Compare two runs on the same images.

    Args:
        metric: the score by which images are sorted.
        vary: see `bench.board.comparable`.

    Raises:
        BenchError: the runs may not be compared, the score is unknown, or a run lacks its counts.
    """
    if reasons := why_not(a, b, vary):
        raise BenchError(f"{a.run_id} and {b.run_id} may not be compared: {'; '.join(reasons)}.")
    a_scores, b_scores = (scores_of_images(run, metric).mean(axis=0) for run in (a, b))  # (n,)
    images = [
        ImagePair(image, a.patients[image], float(x), float(y))
        for image, x, y in zip(a.images, a_scores, b_scores, strict=True)
    ]
    shared = [name for name in counted(a) if name in counted(b)]
    names = dict.fromkeys([metric, *shared])
    return Contrast(
        a=a,
        b=b,
        differences={name: scores.difference(a, b, name) for name in names},
        metric=metric,
        images=sorted(images, key=lambda pair: (-abs(pair.difference), pair.image)),
        notes=_notes(a, b),
    )


def _notes(a: Record, b: Record) -> list[str]:
    notes = ["p values are not adjusted for the number of scores"]
    if a.draws and a.draws[0]:
        notes.append(
            "scores averaged over draws: the differences are conditional on these support sets"
        )
    inputs = [f"{run.spec.view.px} px, {run.spec.precision}" for run in (a, b)]
    if inputs[0] != inputs[1]:
        notes.append(f"the runs also differ in their input: {inputs[0]} and {inputs[1]}")
    flags = {label(run): run.flags for run in (a, b) if run.flags}
    return notes + [f"{name}: {', '.join(run_flags)}" for name, run_flags in flags.items()]
