"""Score against labels, steps, parameters or pixels: the curves of several runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.board import BoardOptions, dataset_name, label, part
from bench.curve_sums import area, labels_needed
from bench.curves import Curve, Point, curve, rows
from bench.protocols._told import (
    grouped,
    head_of,
    image_scores,
    on_all_alike,
    patients_of,
    recalled,
    scored_alike,
    seed_text,
)
from bench.record import Record, canonical
from bench.sheet import Picture, Sheet, Told, bracketed

if TYPE_CHECKING:
    from bench.grid import Finished, Result

SHARE = 0.95  # of the score with all the labels
OF_A_CURVE = ("backbone", "data set", "head")
ALIKE = ("dataset", "scored", "backbone", "head", "recipe", "ttt", "view", "precision")


@dataclass(frozen=True)
class Axis:
    """What a curve is drawn against.

    Attributes:
        name: of x, with its unit.
        place: where a run lies, x > 0.
        word: what a point is called.
        family: what the runs of one curve share, as its name.
    """

    name: str
    place: Callable[[Result, Record], float]
    word: Callable[[Result, Record], str]
    family: Callable[[Result, Record], str] = lambda _, record: label(record)


@dataclass(frozen=True)
class Grown:
    """A curve, and where it is from: the family, the data set and the head."""

    words: tuple[str, str, str]
    curve: Curve
    records: Sequence[Record]

    @property
    def name(self) -> str:
        """What it is of."""
        return f"{self.words[0]} · {self.words[1]} · {self.words[2]} head"


def tell_of_labels(finished: Finished) -> Told:
    """Tell runs on growing training sets: curves, the areas below them, and the labels they need.

    Nothing where no backbone was run on two sizes.
    """
    first = next((each.record for each in finished.results if each.record), None)
    nuclei = first is not None and part(first, "protocol").get("by") == "nuclei"
    axis = Axis("training nuclei" if nuclei else "training images", _labels, _labels_word)
    grown = curves_of(finished, axis)
    if not grown:
        return Told()
    told = told_curves(finished, axis, grown)
    rows_of, plain = [], []
    for each, own in zip(grown, told.plain, strict=True):
        below = area(each.curve.points, seed_text=each.curve.seed_text)
        full = _full_scores(each, finished)
        needed = None if full is None else labels_needed(each.curve, full, share=SHARE)
        shown = "no such run" if needed is None else needed.text
        rows_of.append([*each.words, bracketed(below.mean, below.interval), shown])
        plain.append({**own, "area": below.mean, "needed": needed and asdict(needed)})
    columns = [*OF_A_CURVE, "area [95 % interval]", f"{axis.name} for {100 * SHARE:.0f} % of all"]
    title = f"Label efficiency: area under {finished.metric} against log labels, and labels needed"
    sheet = Sheet(title, columns, rows_of, words=3, grouped=False)
    return Told([*told.sheets, sheet], told.lines, plain, told.pictures)


def recall_of(protocol: str, grown: str) -> Callable[[Sequence[Record], BoardOptions], list[Told]]:
    """Make the `recall` of a protocol whose runs differ in one setting: a curve a backbone.

    A set shares data, head and the other settings. Of the lines of one backbone, such as those of
    two recipes, the one with the most points is told, the latest of several.
    """

    def key(record: Record) -> object:
        return {name: own for name, own in part(record, "protocol").items() if name != grown}

    def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
        own = [each for each in stored if part(each, "protocol")["name"] == protocol]
        sets = lines_of(own, lambda record: {name: record.spec[name] for name in ALIKE}, key)
        told = [tell_of_labels(recalled(records, stored, options)) for records in sets]
        return [each for each in told if each.pictures]

    return recall


def lines_of(
    stored: Sequence[Record],
    alike: Callable[[Record], object],
    protocol: Callable[[Record], object],
) -> list[list[Record]]:
    """Group runs that stand in one figure: of the same data, head and protocol.

    Of each backbone only those that are `alike` besides, the most there are, the latest of several.
    """
    sets: dict[bytes, dict[str, dict[bytes, list[Record]]]] = {}
    for record in stored:
        shared = {name: record.spec[name] for name in ("dataset", "scored", "metrics_version")}
        fixed = protocol(record)
        key = canonical({**shared, "protocol": fixed, "head": record.spec["head"]})
        lines = sets.setdefault(key, {}).setdefault(label(record), {})
        line = canonical({"alike": alike(record), "protocol": fixed})
        lines.setdefault(line, []).append(record)
    return [
        [record for lines in families.values() for record in max(reversed(lines.values()), key=len)]
        for families in sets.values()
    ]


def curves_of(finished: Finished, axis: Axis) -> list[Grown]:
    """Make a curve of the runs of each family, data set and head that lie at two x or more.

    Raises:
        BenchError: see `bench.curves.curve`.
    """
    groups = grouped(
        finished.results,
        lambda result, record: (axis.family(result, record), dataset_name(record), head_of(record)),
    )
    grown = []
    for words, runs in groups.items():
        at = {axis.place(*run): run for run in runs}  # of two sets of one size the later
        if len(at) < 2:
            continue
        points = [
            Point(x, axis.word(*run), image_scores(run[1], finished.metric), patients_of(run[1]))
            for x, run in at.items()
        ]
        made = curve(points, seed_text=seed_text(runs[0][1]))
        grown.append(Grown(words, made, [record for _, record in runs]))
    return grown


def told_curves(finished: Finished, axis: Axis, grown: Sequence[Grown]) -> Told:
    """Show curves as a table and, a data set each, as pictures."""
    scored = f"{finished.metric} [95 % interval]"
    columns = ["curve", "run", axis.name, scored, "minus the one before"]
    title = f"{finished.metric} against {axis.name}, paired by patient"
    table = [row for each in grown for row in _point_rows(each)]
    sheets = [Sheet(title, columns, table)] if grown else []
    plain = [
        {
            **dict(zip(("backbone", "dataset", "head"), each.words, strict=True)),
            "points": rows(each.curve),
            "law": each.curve.fit and each.curve.fit.plain(),
        }
        for each in grown
    ]
    pictures = [
        Picture(dataset, _named(grown, dataset), axis.name, finished.metric)
        for dataset in dict.fromkeys(each.words[1] for each in grown)
    ]
    lines = [f"{each.name}: {_law(each.curve)}." for each in grown]
    return Told(sheets, lines, plain, pictures)


def _point_rows(grown: Grown) -> Iterator[list[str]]:
    steps = [None, *grown.curve.steps]
    known = zip(grown.curve.points, grown.curve.summaries, steps, strict=True)
    for point, summary, step in known:
        score = bracketed(summary.mean, summary.interval)
        gained = "–" if step is None else bracketed(step.mean, step.interval)
        yield [grown.name, point.label, f"{point.x:,.6g}", score, gained]


def _law(made: Curve) -> str:
    """Tell the limit of the law that fits a curve, and what speaks against it."""
    if made.fit is None:
        return made.unfitted
    limit = bracketed(made.fit.limit, made.fit.interval)
    return "; ".join([f"the fitted law has the limit {limit}", *made.fit.flags])


def _named(grown: Sequence[Grown], dataset: str) -> dict[str, Curve]:
    return {
        f"{each.words[0]}, {each.words[2]}": each.curve
        for each in grown
        if each.words[1] == dataset
    }


def _full_scores(grown: Grown, finished: Finished) -> np.ndarray | None:
    """Find the scores with all the labels: those of such a run, or of a fraction of 1."""
    last = grown.records[-1]
    alike = [
        each for each in on_all_alike(last, finished.stored, ALIKE) if scored_alike(each, last)
    ]
    if alike:
        return image_scores(alike[-1], finished.metric)
    whole = [each for each in grown.records if part(each, "protocol").get("fraction") == 1]
    return image_scores(whole[-1], finished.metric) if whole else None


def _labels(_: Result, record: Record) -> float:
    """Count the nuclei of a support set as they were asked for; else average its images."""
    own = part(record, "protocol")
    if own.get("by") == "nuclei":
        return float(str(own["shots"]))
    return float(np.mean([len(trial.train) for trial in record.trials]))


def _labels_word(_: Result, record: Record) -> str:
    own = part(record, "protocol")
    if "fraction" in own:
        return f"{float(str(own['fraction'])):.3g} of the images"
    return f"{own['by']}: {own['shots']}"
