"""Curves of runs: score against labels, pretraining steps, parameters or input size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.api.board import BoardOptions
from bench.api.record import Record, canonical
from bench.api.report import Curve, Picture, Point, Sheet, Told
from bench.board.scores import dataset_name, label
from bench.protocols._reporting import (
    grouped,
    head_of,
    image_scores,
    on_all_alike,
    patients_of,
    recalled,
    scored_alike,
    seed_text,
)
from bench.render.tables import bracketed
from bench.stats.curves import area, curve, labels_needed, rows

if TYPE_CHECKING:
    from bench.api.report import Finished, Result

SHARE = 0.95  # of the score with all the labels
OF_A_CURVE = ("backbone", "data set", "head")  # columns that identify a curve
ALIKE = ("dataset", "scored", "backbone", "head", "recipe", "ttt", "view", "precision")


@dataclass(frozen=True)
class Axis:
    """The x axis of a curve.

    Attributes:
        name: label of the axis, with its unit.
        place: returns the x of a run, x > 0.
        word: returns the label of a point.
        family: returns the name of the curve to which a run belongs.
    """

    name: str
    place: Callable[[Result, Record], float]
    word: Callable[[Result, Record], str]
    family: Callable[[Result, Record], str] = lambda _, record: label(record)


@dataclass(frozen=True)
class Grown:
    """A curve with its runs.

    Attributes:
        words: the family, the data set and the head.
    """

    words: tuple[str, str, str]
    curve: Curve
    records: Sequence[Record]

    @property
    def name(self) -> str:
        """The name of the curve."""
        return f"{self.words[0]} · {self.words[1]} · {self.words[2]} head"


def tell_of_labels(finished: Finished) -> Told:
    """Report runs on training sets of several sizes: curves, areas under them, and labels needed.

    The report is empty if no backbone has runs on two sizes.
    """
    first = next((result.record for result in finished.results if result.record), None)
    by_nuclei = first is not None and first.spec.protocol.by == "nuclei"
    axis = Axis("training nuclei" if by_nuclei else "training images", _n_labels, _labels_text)
    curves = curves_of(finished, axis)
    if not curves:
        return Told()
    report = told_curves(finished, axis, curves)
    table, plain = [], []
    for curve_of_runs, curve_json in zip(curves, report.plain, strict=True):
        points, seed = curve_of_runs.curve.points, curve_of_runs.curve.seed_text
        area_summary = area(points, seed_text=seed)
        full_scores = _full_scores(curve_of_runs, finished)
        needed = None
        if full_scores is not None:
            needed = labels_needed(curve_of_runs.curve, full_scores, share=SHARE)
        area_text = bracketed(area_summary.mean, area_summary.interval)
        table.append([*curve_of_runs.words, area_text, needed.text if needed else "no such run"])
        plain.append({**curve_json, "area": area_summary.mean, "needed": needed and asdict(needed)})
    columns = [*OF_A_CURVE, "area [95 % interval]", f"{axis.name} for {100 * SHARE:.0f} % of all"]
    title = f"Label efficiency: area under {finished.metric} against log labels, and labels needed"
    sheet = Sheet(title, columns, table, words=3, grouped=False)
    return Told([*report.sheets, sheet], report.lines, plain, report.pictures)


def recall_of(protocol: str, grown: str) -> Callable[[Sequence[Record], BoardOptions], list[Told]]:
    """Return the `recall` of a protocol with one curve per backbone, over the setting `grown`.

    The curves of a report share data, head and the other settings of the protocol. A backbone with
    several candidates, for example two recipes, has the curve with the most points, the latest of
    several.
    """

    def other_settings(record: Record) -> object:
        protocol = record.spec.subset("protocol")["protocol"]
        return {key: value for key, value in protocol.items() if key != grown}

    def shared_parts(record: Record) -> object:
        return record.spec.subset(*ALIKE)

    def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
        runs = [record for record in stored if record.spec.protocol.name == protocol]
        groups = lines_of(runs, shared_parts, other_settings)
        reports = [tell_of_labels(recalled(records, stored, options)) for records in groups]
        return [report for report in reports if report.pictures]

    return recall


def lines_of(
    stored: Sequence[Record],
    alike: Callable[[Record], object],
    protocol: Callable[[Record], object],
) -> list[list[Record]]:
    """Group runs into figures: runs of the same data, head and protocol.

    Each backbone has the runs of one line per figure: the one with the most runs, the latest of
    several.

    Args:
        alike: what the runs of a line share.
        protocol: the settings of the protocol that the runs of a figure share.
    """
    figures: dict[bytes, dict[str, dict[bytes, list[Record]]]] = {}
    for record in stored:
        shared = record.spec.subset("dataset", "scored", "metrics_version", "head")
        fixed = protocol(record)
        key = canonical({**shared, "protocol": fixed})
        lines = figures.setdefault(key, {}).setdefault(label(record), {})
        line = canonical({"alike": alike(record), "protocol": fixed})
        lines.setdefault(line, []).append(record)
    return [
        [record for lines in families.values() for record in max(reversed(lines.values()), key=len)]
        for families in figures.values()
    ]


def curves_of(finished: Finished, axis: Axis) -> list[Grown]:
    """Return a curve for each family, data set and head with runs at two x or more.

    Raises:
        BenchError: see `bench.stats.curves.curve`.
    """
    groups = grouped(
        finished.results,
        lambda result, record: (axis.family(result, record), dataset_name(record), head_of(record)),
    )
    curves = []
    for words, runs in groups.items():
        run_at = {axis.place(*run): run for run in runs}  # the last run at an x counts
        if len(run_at) < 2:
            continue
        points = [
            Point(
                x,
                axis.word(result, record),
                image_scores(record, finished.metric),
                patients_of(record),
            )
            for x, (result, record) in run_at.items()
        ]
        fitted = curve(points, seed_text=seed_text(runs[0][1]))
        curves.append(Grown(words, fitted, [record for _, record in runs]))
    return curves


def told_curves(finished: Finished, axis: Axis, grown: Sequence[Grown]) -> Told:
    """Report curves as a table, and as one plot per data set."""
    columns = ["curve", "run", axis.name, f"{finished.metric} [95 % interval]"]
    columns.append("minus the one before")
    title = f"{finished.metric} against {axis.name}, paired by patient"
    table = [row for curve_of_runs in grown for row in _point_rows(curve_of_runs)]
    sheets = [Sheet(title, columns, table)] if grown else []
    plain = []
    plots: dict[str, dict[str, Curve]] = {}  # by data set, by name of the curve
    lines = []
    for curve_of_runs in grown:
        backbone, dataset, head = curve_of_runs.words
        plain.append(
            {
                "backbone": backbone,
                "dataset": dataset,
                "head": head,
                "points": rows(curve_of_runs.curve),
                "law": curve_of_runs.curve.fit and curve_of_runs.curve.fit.plain(),
            }
        )
        plots.setdefault(dataset, {})[f"{backbone}, {head}"] = curve_of_runs.curve
        lines.append(f"{curve_of_runs.name}: {_law_text(curve_of_runs.curve)}.")
    pictures = [
        Picture(dataset, curves, axis.name, finished.metric) for dataset, curves in plots.items()
    ]
    return Told(sheets, lines, plain, pictures)


def _point_rows(grown: Grown) -> Iterator[list[str]]:
    steps = [None, *grown.curve.steps]
    for point, summary, step in zip(grown.curve.points, grown.curve.summaries, steps, strict=True):
        score = bracketed(summary.mean, summary.interval)
        step_text = "–" if step is None else bracketed(step.mean, step.interval)
        yield [grown.name, point.label, f"{point.x:,.6g}", score, step_text]


def _law_text(fitted: Curve) -> str:
    """Return the limit of the fitted law with its flags, or why there is no law."""
    if fitted.fit is None:
        return fitted.unfitted
    limit = bracketed(fitted.fit.limit, fitted.fit.interval)
    return "; ".join([f"the fitted law has the limit {limit}", *fitted.fit.flags])


def _full_scores(grown: Grown, finished: Finished) -> np.ndarray | None:
    """Return the scores with all the labels, of a matching stored run or of the fraction 1."""
    last = grown.records[-1]
    matches = [
        record
        for record in on_all_alike(last, finished.stored, ALIKE)
        if scored_alike(record, last)
    ]
    if not matches:
        matches = [run for run in grown.records if run.spec.protocol.fraction == 1]
    return image_scores(matches[-1], finished.metric) if matches else None


def _n_labels(_: Result, record: Record) -> float:
    """Return the requested number of nuclei of a support set, or its mean number of images."""
    protocol = record.spec.protocol
    if protocol.by == "nuclei" and protocol.shots is not None:
        return float(protocol.shots)
    return float(np.mean([len(trial.train) for trial in record.trials]))


def _labels_text(_: Result, record: Record) -> str:
    protocol = record.spec.protocol
    if protocol.fraction is not None:
        return f"{protocol.fraction:.3g} of the images"
    return f"{protocol.by}: {protocol.shots}"
