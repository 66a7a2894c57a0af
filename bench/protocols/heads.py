"""Series over heads: does the ranking of the backbones depend on the head?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.api.record import Record
from bench.api.report import Cell, IntervalPlot, ReportOptions, SeriesReport, Table
from bench.board.reporting import (
    grouped,
    head_of,
    is_on_all,
    means_of_images,
    patients_of,
    seed_text,
)
from bench.board.scores import dataset_name, label
from bench.stats.rank_correlation import Concordance, concordance, kendall, spearman

if TYPE_CHECKING:
    from bench.api.run_config import RunConfig

HEADS = ("linear", "light", "decoder")
SAME_RANKING = 0.5  # Kendall's tau at which 3 of 4 pairs of backbones have the same order


def runs(config: RunConfig, options: SeriesOptions) -> list[RunConfig]:
    """Return one config per head, or for the head that the user selected."""
    heads = HEADS if config.head is None else (config.head,)
    return [replace(config, protocol="full", head=head) for head in heads]


def report(
    records: Sequence[Record], stored: Sequence[Record], options: ReportOptions
) -> SeriesReport:
    """Report the rank correlations of the backbones between every two heads, for each data set.

    Only backbones with runs under all heads count.
    """
    table: list[list[Cell | str]] = []
    objects, lines, plots = [], [], []
    for dataset, runs_on_it in grouped(records, dataset_name).items():
        boards, names = _boards(runs_on_it)
        if len(names) < 2 or len(boards) < 2:
            lines.append(f"{dataset}: fewer than two backbones or heads to rank.")
            continue
        correlations = list(_correlations(boards, options.metric))
        rows = []
        for pair, rho, tau in correlations:
            heads = " and ".join(pair)
            cells = [Cell.of(statistic.value, statistic.interval) for statistic in (rho, tau)]
            table.append([dataset, heads, Cell(len(names), digits=0), *cells])
            objects.append(
                {
                    "dataset": dataset,
                    "heads": list(pair),
                    "backbones": names,
                    "spearman": asdict(rho),
                    "kendall": asdict(tau),
                }
            )
            rows.append((heads, tau.value, tau.interval.low, tau.interval.high))
        title = f"{dataset}: rank correlation of {len(names)} backbones between two heads"
        plots.append(IntervalPlot(title, "Kendall's tau", rows))
        taus = [(pair, tau) for pair, _, tau in correlations]
        lines.append(f"{dataset}: {_sentence(taus, len(names))}")
    columns = ["data set", "heads", "backbones", "Spearman [95 % interval]", "Kendall"]
    title = f"Rank correlation of the backbones between two heads, by {options.metric}"
    tables = [Table(title, columns, table)] if table else []
    return SeriesReport(tables, lines, objects, intervals=plots)


def group_by(record: Record) -> object:
    """Return what stored runs that differ only in backbone and head share."""
    if not is_on_all(record):
        return None
    shared = record.spec.subset("dataset", "scored", "metrics_version")
    return [shared, record.spec.protocol.options]


def _boards(records: Sequence[Record]) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the runs by head, in the order of the backbones that all heads share, and these."""
    by_head: dict[str, dict[str, Record]] = {}
    for record in records:
        by_head.setdefault(head_of(record), {})[label(record)] = record
    labels = dict.fromkeys(map(label, records))
    names = [name for name in labels if all(name in runs for runs in by_head.values())]
    return {head: [runs[name] for name in names] for head, runs in by_head.items()}, names


def _correlations(
    boards: dict[str, list[Record]], metric: str
) -> Iterator[tuple[tuple[str, str], Concordance, Concordance]]:
    """Yield every two heads with Spearman's and Kendall's rank correlation."""
    any_run = next(iter(boards.values()))[0]
    patients, seed = patients_of(any_run), seed_text(any_run)
    scores = {
        head: np.stack([means_of_images(record, metric) for record in records])  # (m, n)
        for head, records in boards.items()
    }
    for a, b in combinations(boards, 2):
        pair = (scores[a], scores[b])
        rho = concordance(spearman, pair, patients, seed_text=seed)
        tau = concordance(kendall, pair, patients, seed_text=seed)
        yield (a, b), rho, tau


def _sentence(taus: Sequence[tuple[tuple[str, str], Concordance]], backbones: int) -> str:
    """Return the conclusion from the intervals of Kendall's tau, and the heads that agree least."""
    pair, lowest = min(taus, key=lambda pair_tau: pair_tau[1].value)
    intervals = [tau.interval for _, tau in taus]
    if any(interval.low is None for interval in intervals):
        answer = "too few patients to decide whether the ranking depends on the head"
    elif any(interval.low == interval.high == 0 for interval in intervals):
        answer = "undecided whether the ranking depends on the head, as one head has equal scores"
    elif all(interval.low is not None and interval.low > SAME_RANKING for interval in intervals):
        answer = "the ranking does not depend on the head"
    elif any(interval.high is not None and interval.high < SAME_RANKING for interval in intervals):
        answer = "the ranking depends on the head"
    else:
        answer = "undecided whether the ranking depends on the head"
    tau_text = Cell.of(lowest.value, lowest.interval)
    return (
        f"{answer} ({backbones} backbones; lowest Kendall's tau: {tau_text}, {' and '.join(pair)}; "
        f"at {SAME_RANKING} three of four pairs of backbones have the same order)."
    )


HEAD_CHOICE = Series(
    name="heads",
    runs=runs,
    report=report,
    fewest=2,
    group_by=group_by,
    title="The same backbones under several heads, with the rank correlation between heads",
)
