"""Reports on curves: score against labels, pretraining steps, parameters or input size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from bench.api.record import Record, canonical
from bench.api.report import (
    DASH,
    Cell,
    Curve,
    CurvePlot,
    Point,
    ReportOptions,
    SeriesReport,
    Table,
)
from bench.board.reporting import (
    grouped,
    head_of,
    image_scores,
    on_all_alike,
    patients_of,
    scored_alike,
    seed_text,
)
from bench.board.scores import dataset_name, label
from bench.stats.curves import area, curve, labels_needed, rows

SHARE = 0.95  # of the score with all the labels
NAMES = ("backbone", "data set", "head")  # columns that identify a curve
FIXED = ("dataset", "scored", "backbone", "head", "recipe", "ttt", "view", "precision")


@dataclass(frozen=True)
class Axis:
    """The x axis of a curve.

    Attributes:
        name: label of the axis, with its unit.
        place: returns the x of a run, x > 0.
        word: returns the label of a point.
        family: returns the name of the curve to which a run belongs.
        line: what the runs of a curve share, as JSON values. Of several lines in a family, the one
            with the most runs is the curve, the latest of several.
    """

    name: str
    place: Callable[[Record], float]
    word: Callable[[Record], str]
    family: Callable[[Record], str] = label
    line: Callable[[Record], object] = lambda _: None


@dataclass(frozen=True)
class RunCurve:
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


def report_on_labels(
    records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
) -> SeriesReport:
    """Report runs on training sets of several sizes: curves, areas under them, and labels needed.

    The report is empty if no backbone has runs on two sizes.
    """
    by_nuclei = bool(records) and records[0].spec.protocol.by == "nuclei"
    axis = Axis(
        "training nuclei" if by_nuclei else "training images",
        _n_labels,
        _labels_text,
        line=lambda record: [record.spec.subset(*FIXED), _settings(record)],
    )
    curves = curves_of(records, axis, options.metric)
    if not curves:
        return SeriesReport()
    report = report_curves(curves, axis, options.metric)
    table, areas = [], []
    for run_curve, curve_json in zip(curves, report.json, strict=True):
        points, seed = run_curve.curve.points, run_curve.curve.seed_text
        area_summary = area(points, seed_text=seed)
        full_scores = _full_scores(run_curve, stored, options.metric)
        needed = None
        if full_scores is not None:
            needed = labels_needed(run_curve.curve, full_scores, share=SHARE)
        area_cell = Cell.of(area_summary.mean, area_summary.interval)
        table.append([*run_curve.words, area_cell, needed.text if needed else "no such run"])
        areas.append({**curve_json, "area": area_summary.mean, "needed": needed and asdict(needed)})
    columns = [*NAMES, "area [95 % interval]", f"{axis.name} for {100 * SHARE:.0f} % of all"]
    title = f"Label efficiency: area under {options.metric} against log labels, and labels needed"
    return replace(report, tables=[*report.tables, Table(title, columns, table)], json=areas)


def groups_by_size(protocol: str, size: str) -> Callable[[Record], object]:
    """Return the `group_by` of a protocol whose curve is over the setting `size`.

    The curves of a report share data, head and the other settings of the protocol.
    """

    def group_by(record: Record) -> object:
        if record.spec.protocol.name != protocol:
            return None
        options = record.spec.protocol.options.items()
        return figure_of(record, {key: value for key, value in options if key != size})

    return group_by


def figure_of(record: Record, protocol: object) -> object:
    """Return what the stored runs in one plot share: data, head and settings of the protocol."""
    return [record.spec.subset("dataset", "scored", "metrics_version", "head"), protocol]


def curves_of(records: Sequence[Record], axis: Axis, metric: str) -> list[RunCurve]:
    """Return a curve for each family, data set and head with runs at two x or more.

    Raises:
        BenchError: see `bench.stats.curves.curve`.
    """
    families = grouped(
        records, lambda record: (axis.family(record), dataset_name(record), head_of(record))
    )
    curves = []
    for words, family in families.items():
        lines = grouped(family, lambda record: canonical({"line": axis.line(record)}))
        runs = max(reversed(lines.values()), key=len)
        run_at = {axis.place(record): record for record in runs}  # the last run at an x counts
        if len(run_at) < 2:
            continue
        points = [
            Point(x, axis.word(record), image_scores(record, metric), patients_of(record))
            for x, record in run_at.items()
        ]
        curves.append(RunCurve(words, curve(points, seed_text=seed_text(runs[0])), runs))
    return curves


def report_curves(curves: Sequence[RunCurve], axis: Axis, metric: str) -> SeriesReport:
    """Report curves as a table, and as one plot per data set; empty without curves."""
    if not curves:
        return SeriesReport()
    columns = ["curve", "run", axis.name, f"{metric} [95 % interval]", "minus the one before"]
    title = f"{metric} against {axis.name}, paired by patient"
    table = [row for run_curve in curves for row in _point_rows(run_curve)]
    objects = []
    plots: dict[str, dict[str, Curve]] = {}  # by data set, by name of the curve
    for run_curve in curves:
        backbone, dataset, head = run_curve.words
        objects.append(
            {
                "backbone": backbone,
                "dataset": dataset,
                "head": head,
                "points": rows(run_curve.curve),
                "law": run_curve.curve.fit and run_curve.curve.fit.plain(),
            }
        )
        plots.setdefault(dataset, {})[f"{backbone}, {head}"] = run_curve.curve
    return SeriesReport(
        tables=[Table(title, columns, table, grouped=True)],
        lines=[f"{run_curve.name}: {_law_text(run_curve.curve)}." for run_curve in curves],
        json=objects,
        curves=[CurvePlot(dataset, plot, axis.name, metric) for dataset, plot in plots.items()],
    )


def _point_rows(run_curve: RunCurve) -> Iterator[list[Cell | str]]:
    curve = run_curve.curve
    for point, summary, step in zip(
        curve.points, curve.summaries, [None, *curve.steps], strict=True
    ):
        score = Cell.of(summary.mean, summary.interval)
        difference = DASH if step is None else Cell.of(step.mean, step.interval)
        yield [run_curve.name, point.label, f"{point.x:,.6g}", score, difference]


def _law_text(fitted: Curve) -> str:
    """Return the limit of the fitted law with its flags, or why there is no law."""
    if fitted.fit is None:
        return fitted.unfitted
    limit = Cell.of(fitted.fit.limit, fitted.fit.interval)
    return "; ".join([f"the fitted law has the limit {limit}", *fitted.fit.flags])


def _full_scores(run_curve: RunCurve, stored: Sequence[Record], metric: str) -> np.ndarray | None:
    """Return the scores with all the labels, of a matching stored run or of the fraction 1."""
    last = run_curve.records[-1]
    matches = [run for run in on_all_alike(last, stored, FIXED) if scored_alike(run, last)]
    if not matches:
        matches = [run for run in run_curve.records if run.spec.protocol.fraction == 1]
    return image_scores(matches[-1], metric) if matches else None


def _settings(record: Record) -> dict[str, object]:
    """Return the settings of the protocol without the size of the training set."""
    options = record.spec.protocol.options.items()
    return {name: value for name, value in options if name not in ("shots", "fraction")}


def _n_labels(record: Record) -> float:
    """Return the requested number of nuclei of a support set, or its mean number of images."""
    protocol = record.spec.protocol
    if protocol.by == "nuclei" and protocol.shots is not None:
        return float(protocol.shots)
    return float(np.mean([len(trial.train) for trial in record.trials]))


def _labels_text(record: Record) -> str:
    protocol = record.spec.protocol
    if protocol.fraction is not None:
        return f"{protocol.fraction:.3g} of the images"
    return f"{protocol.by}: {protocol.shots}"
