"""Transfer series: train on one data set, score on the test images of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.api import Series, SeriesOptions
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.report import Dots, Sheet, Told
from bench.board.scores import label
from bench.errors import BenchError
from bench.protocols._reporting import (
    ON_ALL,
    compared,
    head_of,
    means_of_images,
    on_all_runs,
    recalled,
    scored_alike,
)
from bench.render.tables import decimals

if TYPE_CHECKING:
    from bench.api.config import RunConfig
    from bench.api.report import Finished

ALIKE = ("head", "recipe", "ttt", "precision")  # must match, besides backbone and weights


def runs(request: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return one request per target data set.

    Raises:
        BenchError: no target, or the training data set as target.
    """
    if not options.target_datasets:
        raise BenchError("'transfer' needs the data sets to score: --target-dataset NAME.")
    if request.dataset in options.target_datasets:
        raise BenchError(
            f"--target-dataset {request.dataset} is the training data set. Use --protocol full to "
            "score it."
        )
    return [
        replace(request, protocol="full", target_dataset=name) for name in options.target_datasets
    ]


def tell(finished: Finished) -> Told:
    """Report the scores on the targets, and the differences to in-domain runs.

    The in-domain run is a stored run with the same backbone, weights, head and recipe, trained on
    all training images of the target. The difference is paired if both have the same test images.
    """
    table, plain = [], []
    intervals: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
    for result in finished.results:
        record = result.record
        if record is None:
            continue
        in_domain = _in_domain(record, finished.stored)
        in_domain_scores = in_domain_mean = paired_scores = None
        if in_domain is not None:
            in_domain_scores = means_of_images(in_domain, finished.metric)
            in_domain_mean = float(in_domain_scores.mean())
            if scored_alike(in_domain, record):
                paired_scores = in_domain_scores
        target = str(record.facts["scored"])
        values = means_of_images(record, finished.metric)
        row = compared(target, values, record, paired_scores)
        backbone, source, head = label(record), str(record.facts["dataset"]), head_of(record)
        intervals.setdefault(f"{source} to {target} · {head} head", []).append(
            (backbone, row.mean, row.interval.low, row.interval.high)
        )
        _, score, difference, p, _ = row.text
        table.append(
            [backbone, source, target, head, score, decimals(in_domain_mean), difference, p]
        )
        plain.append(
            {
                "backbone": backbone,
                "trained_on": source,
                "head": head,
                **row.plain,
                "in_domain": in_domain and in_domain.run_id,
                "in_domain_mean": in_domain_mean,
            }
        )
    columns = ["backbone", "trained on", "scored on", "head", f"{finished.metric} [95 % interval]"]
    columns += ["in-domain", "minus it", "p"]
    title = f"{finished.metric} on other data, and minus the in-domain run, paired"
    dots = [Dots(name, finished.metric, rows) for name, rows in intervals.items()]
    return Told([Sheet(title, columns, table, words=4, grouped=False)], [], plain, dots=dots)


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Report the stored runs that were trained on one data set and scored on another."""
    transferred = [
        record
        for record in stored
        if record.spec.scored.sha256 != record.spec.dataset.sha256 and not record.spec.scored.shift
    ]
    fixed = ("dataset", "scored", "head", "protocol", "metrics_version")
    groups = on_all_runs(transferred, lambda record: record.spec.subset(*fixed))
    return [tell(recalled(records, stored, options)) for records in groups]


def _in_domain(record: Record, stored: Sequence[Record]) -> Record | None:
    """Return the matching run trained on the scored data set, preferably on the same images."""
    matches = [
        candidate
        for candidate in stored
        if candidate.spec.protocol.name in ON_ALL
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
    tell=tell,
    options=("target_datasets",),
    recall=recall,
    title="Any head, trained on one data set and scored on the test images of others",
)
