"""Report on runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.api.board import BoardOptions, Summary
from bench.api.record import Record
from bench.api.report import Cell, Result, SeriesReport, Table
from bench.api.run_config import RunConfig
from bench.board.reporting import head_of, patients_of, seed_text
from bench.board.scores import dataset_name, label, scores_of_images
from bench.runs.grid import protocol_name
from bench.stats.bootstrap import summarise


@dataclass(frozen=True)
class SeedSpread:
    """Runs that differ only in their seed.

    Attributes:
        names: backbone, data set, protocol and head.
        means: the score of each run, in the order of `seeds`.
        summary: of the scores of the images, averaged over seeds; its interval is over patients.
    """

    names: tuple[str, str, str, str]
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    summary: Summary

    @property
    def deviation(self) -> float:
        """The standard deviation of the scores over seeds."""
        return float(np.std(self.means, ddof=1))

    @property
    def json(self) -> dict[str, object]:
        """The spread as a JSON object."""
        return {
            **dict(zip(("backbone", "dataset", "protocol", "head"), self.names, strict=True)),
            "seeds": list(self.seeds),
            "means": list(self.means),
            "mean": self.summary.mean,
            "interval_over_patients": [self.summary.interval.low, self.summary.interval.high],
            "sd_over_seeds": self.deviation,
        }


def report_seeds(results: Sequence[Result], options: BoardOptions) -> SeriesReport:
    """Report the spread of scores over seeds; empty without two runs that differ in their seed."""
    spreads = []
    for config, members in _groups(results):
        records = [(seed, record) for seed, record in members if record is not None]
        if len(records) > 1:
            spreads.append(_spread(config, records, options))
    if not spreads:
        return SeriesReport()
    columns = ["backbone", "data set", "protocol", "head", "seeds"]
    columns += [f"{options.metric} [95 % over patients]", "± over seeds", "lowest", "highest"]
    rows = [
        [
            *spread.names,
            Cell(len(spread.seeds), digits=0),
            Cell.of(spread.summary.mean, spread.summary.interval),
            *(Cell(value) for value in (spread.deviation, min(spread.means), max(spread.means))),
        ]
        for spread in spreads
    ]
    title = "over seeds: the interval is over patients, of images averaged over seeds"
    objects = [{**spread.json, "metric": options.metric} for spread in spreads]
    return SeriesReport([Table(title, columns, rows)], json=objects)


def _groups(
    results: Sequence[Result],
) -> list[tuple[RunConfig, list[tuple[int, Record | None]]]]:
    """Group results by their config without its seed, in order: seeds and records."""
    groups: list[tuple[RunConfig, list[tuple[int, Record | None]]]] = []
    for result in results:
        config = replace(result.config, seed=0)
        members = next((members for key, members in groups if key == config), None)
        if members is None:
            members = []
            groups.append((config, members))
        members.append((result.config.plan.seed, result.record))
    return groups


def _spread(
    config: RunConfig, records: Sequence[tuple[int, Record]], options: BoardOptions
) -> SeedSpread:
    first = records[0][1]
    scores = [scores_of_images(record, options.metric).mean(axis=0) for _, record in records]
    images = np.stack(scores)  # (S, n)
    summary = summarise(
        images.mean(axis=0),
        first.images if options.ci == "percentile" else patients_of(first),
        method=options.ci,
        resamples=options.resamples,
        seed_text=seed_text(first),
    )
    return SeedSpread(
        (label(first), dataset_name(first), protocol_name(config), head_of(first)),
        tuple(seed for seed, _ in records),
        tuple(images.mean(axis=1).tolist()),
        summary,
    )
