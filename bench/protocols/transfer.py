"""Transfer series: train on one data set, score on the test images of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.api.record import Record
from bench.api.report import Cell, IntervalPlot, ReportOptions, SeriesReport, Table
from bench.board.reporting import compared, head_of, is_on_all, means_of_images, scored_alike
from bench.board.scores import label
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.run_config import RunConfig

ALIKE = ("head", "recipe", "ttt", "precision")  # must match, besides backbone and weights


def runs(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return one config per target data set.

    Raises:
        BenchError: no target, or the training data set as target.
    """
    if not options.target_datasets:
        raise BenchError("'transfer' needs the data sets to score: --target-dataset NAME.")
    if config.dataset in options.target_datasets:
        raise BenchError(
            f"--target-dataset {config.dataset} is the training data set. Use --protocol full to "
            "score it."
        )
    return [
        replace(config, protocol="full", target_dataset=name) for name in options.target_datasets
    ]


def report(
    records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
) -> SeriesReport:
    """Report the scores on the targets, and the differences to in-domain runs.

    The in-domain run is a stored run with the same backbone, weights, head and recipe, trained on
    all training images of the target. The difference is paired if both have the same test images.
    """
    table: list[list[Cell | str]] = []
    objects = []
    bounds: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
    for record in records:
        in_domain = _in_domain(record, stored)
        in_domain_scores = in_domain_mean = paired_scores = None
        if in_domain is not None:
            in_domain_scores = means_of_images(in_domain, options.metric)
            in_domain_mean = float(in_domain_scores.mean())
            if scored_alike(in_domain, record):
                paired_scores = in_domain_scores
        target = str(record.facts["scored"])
        values = means_of_images(record, options.metric)
        row = compared(target, values, record, paired_scores)
        backbone, source, head = label(record), str(record.facts["dataset"]), head_of(record)
        bounds.setdefault(f"{source} to {target} · {head} head", []).append(
            (backbone, *row.bounds[1:])
        )
        score, difference, p, _ = row.cells
        table.append([backbone, source, target, head, score, Cell(in_domain_mean), difference, p])
        objects.append(
            {
                "backbone": backbone,
                "trained_on": source,
                "head": head,
                **row.json,
                "unscored": _unscored(record),
                "in_domain": in_domain and in_domain.run_id,
                "in_domain_mean": in_domain_mean,
            }
        )
    columns = ["backbone", "trained on", "scored on", "head", f"{options.metric} [95 % interval]"]
    columns += ["in-domain", "minus it", "p"]
    title = f"{options.metric} on other data, and minus the in-domain run, paired"
    lines = list(dict.fromkeys(line for record in records for line in _on_unscored(record)))
    tables = [Table(title, columns, table)] if table else []
    plots = [IntervalPlot(name, options.metric, rows) for name, rows in bounds.items()]
    return SeriesReport(tables, lines, objects, intervals=plots)


def _unscored(record: Record) -> int | None:
    """Return the number of images of the target that a run did not score; None if unknown."""
    total = record.facts.get("target_images")
    return total - len(record.images) if isinstance(total, int) else None


def _on_unscored(record: Record) -> list[str]:
    """Report the images of the target that a run did not score, in at most one sentence."""
    unscored, scored = _unscored(record), len(record.images)
    if not unscored:
        return []
    limit = record.spec.dataset.limit
    scope = "those of the test split" if limit is None else f"as --limit {limit} says"
    return [
        f"{record.facts['scored']}: {scored} of {scored + unscored} images are scored, {scope}; "
        f"{unscored} are not."
    ]


def group_by(record: Record) -> object:
    """Return what stored runs that differ only in their backbone share; None for in-domain runs."""
    scored = record.spec.scored
    is_in_domain = scored.sha256 == record.spec.dataset.sha256
    if is_in_domain or scored.shift or not is_on_all(record):
        return None
    return record.spec.subset("dataset", "scored", "head", "protocol", "metrics_version")


def _in_domain(record: Record, stored: Sequence[Record]) -> Record | None:
    """Return the matching run trained on the scored data set, preferably on the same images."""
    matches = [
        candidate
        for candidate in stored
        if is_on_all(candidate)
        and _source(candidate) == _source(record)
        and candidate.spec.subset(*ALIKE) == record.spec.subset(*ALIKE)
        and candidate.spec.protocol.seed == record.spec.protocol.seed
        and candidate.spec.dataset.sha256 == record.spec.scored.sha256
        and candidate.spec.dataset.limit == record.spec.dataset.limit
        and candidate.spec.scored == record.spec.scored
    ]
    return max(matches, key=lambda candidate: scored_alike(candidate, record), default=None)


def _source(record: Record) -> tuple[object, ...]:
    """Return the backbone, its weights and its options without the input size."""
    backbone = record.spec.backbone
    options = {name: value for name, value in backbone.options.items() if name != "input_px"}
    return backbone.name, backbone.weights, options, record.spec.view.kind


TRANSFER = Series(
    name="transfer",
    runs=runs,
    report=report,
    options=("target_datasets",),
    group_by=group_by,
    title="Any head, trained on one data set and scored on the test images of others",
)
