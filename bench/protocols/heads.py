"""Heads: the same backbones under several heads. Does the choice of the head decide the ranking?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.board import BoardOptions, dataset_name, label, part
from bench.concordance import Concordance, concordance, kendall, spearman
from bench.protocols._told import (
    grouped,
    head_of,
    means_of_images,
    on_all_runs,
    patients_of,
    recalled,
    seed_text,
)
from bench.record import Record
from bench.sheet import Dots, Sheet, Told, bracketed

if TYPE_CHECKING:
    from bench.grid import Finished
    from bench.job import Request

HEADS = ("linear", "light", "decoder")
KEPT = 0.5  # Kendall's tau at which three pairs in four keep their order


def runs(request: Request, options: SeriesOptions) -> list[Request]:
    """Ask for a run under each head, or under the one that the user names."""
    heads = HEADS if request.head is None else (request.head,)
    return [replace(request, protocol="full", head=head) for head in heads]


def tell(finished: Finished) -> Told:
    """Tell how alike each two heads rank the backbones, on each data set.

    The backbones that were run under all of the heads count.
    """
    table, plain, lines, dots = [], [], [], []
    groups = grouped(finished.results, lambda _, record: dataset_name(record))
    for dataset, runs_of in groups.items():
        boards, names = _boards([record for _, record in runs_of])
        if len(names) < 2 or len(boards) < 2:
            lines.append(f"{dataset}: fewer than two backbones or heads to rank.")
            continue
        found = list(_pairs(boards, finished.metric))
        for pair, rho, tau in found:
            words = [dataset, " and ".join(pair), str(len(names))]
            table.append([*words, *(bracketed(each.value, each.interval) for each in (rho, tau))])
            plain.append(
                {
                    "dataset": dataset,
                    "heads": list(pair),
                    "backbones": names,
                    "spearman": asdict(rho),
                    "kendall": asdict(tau),
                }
            )
        rows = [(" and ".join(pair), tau.value, *_ends(tau)) for pair, _, tau in found]
        title = f"{dataset}: how alike two heads rank {len(names)} backbones"
        dots.append(Dots(title, "Kendall's tau", rows))
        lines.append(f"{dataset}: {_sentence([(pair, tau) for pair, _, tau in found], len(names))}")
    columns = ["data set", "heads", "backbones", "Spearman [95 % interval]", "Kendall"]
    title = f"How alike two heads rank the backbones by {finished.metric}"
    sheets = [Sheet(title, columns, table, grouped=False)] if table else []
    return Told(sheets, lines, plain, dots=dots)


def recall(stored: Sequence[Record], options: BoardOptions) -> list[Told]:
    """Tell of the runs of the store that differ in backbone and head alone."""
    shared = ("dataset", "scored", "metrics_version")
    sets = on_all_runs(
        stored,
        lambda record: [
            *(record.spec[name] for name in shared),
            {name: own for name, own in part(record, "protocol").items() if name != "name"},
        ],
    )
    told = [tell(recalled(records, stored, options)) for records in sets]
    return [each for each in told if each.sheets]


def _ends(found: Concordance) -> tuple[float | None, float | None]:
    return found.interval.low, found.interval.high


def _boards(records: Sequence[Record]) -> tuple[dict[str, list[Record]], list[str]]:
    """Give the runs under each head, in the order of the backbones that all heads have."""
    by_head: dict[str, dict[str, Record]] = {}
    for record in records:
        by_head.setdefault(head_of(record), {})[label(record)] = record
    every = dict.fromkeys(map(label, records))
    names = [name for name in every if all(name in own for own in by_head.values())]
    return {head: [own[name] for name in names] for head, own in by_head.items()}, names


def _pairs(
    boards: dict[str, list[Record]], metric: str
) -> Iterator[tuple[tuple[str, str], Concordance, Concordance]]:
    """Correlate the ranks of each two heads: Spearman's and Kendall's."""
    some = next(iter(boards.values()))[0]
    scores = {
        head: np.stack([means_of_images(record, metric) for record in records])  # (m, n)
        for head, records in boards.items()
    }
    for pair in combinations(boards, 2):
        both = (scores[pair[0]], scores[pair[1]])
        rho, tau = (
            concordance(how, both, patients_of(some), seed_text=seed_text(some))
            for how in (spearman, kendall)
        )
        yield pair, rho, tau


def _sentence(found: Sequence[tuple[tuple[str, str], Concordance]], backbones: int) -> str:
    """Answer by the intervals of Kendall's tau, and name the heads that agree least."""
    pair, least = min(found, key=lambda each: each[1].value)
    bounds = [tau.interval for _, tau in found]
    if any(each.low is None for each in bounds):
        answer = "too few patients to tell whether the choice of the head decides the ranking"
    elif any(each.low == each.high == 0 for each in bounds):
        answer = "a head scores all alike: it cannot be told whether the choice decides the ranking"
    elif all(each.low is not None and each.low > KEPT for each in bounds):
        answer = "the choice of the head does not decide the ranking"
    elif any(each.high is not None and each.high < KEPT for each in bounds):
        answer = "the choice of the head decides the ranking"
    else:
        answer = "it stays open whether the choice of the head decides the ranking"
    shown = bracketed(least.value, least.interval)
    return (
        f"{answer} of {backbones} backbones (least alike: {' and '.join(pair)}, Kendall {shown}; "
        f"at {KEPT} three pairs of backbones in four keep their order)."
    )


HEAD_CHOICE = Series(
    name="heads",
    runs=runs,
    tell=tell,
    fewest=2,
    recall=recall,
    title="The same backbones under several heads, and how alike these rank them",
)
