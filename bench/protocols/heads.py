"""Heads: the same backbones under several heads. Does the choice of the head decide the ranking?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Series, SeriesOptions
from bench.board import dataset_name, label
from bench.concordance import Concordance, concordance, kendall, spearman
from bench.protocols._told import (
    grouped,
    head_of,
    means_of_images,
    patients_of,
    seed_text,
)
from bench.record import Record
from bench.sheet import Sheet, Told, bracketed

if TYPE_CHECKING:
    from bench.grid import Finished
    from bench.job import Request

HEADS = ("linear", "light", "decoder")


def runs(request: Request, options: SeriesOptions) -> list[Request]:
    """Ask for a run under each head, or under the one that the user names."""
    heads = HEADS if request.head is None else (request.head,)
    return [replace(request, protocol="full", head=head) for head in heads]


def tell(finished: Finished) -> Told:
    """Tell how alike each two heads rank the backbones, on each data set.

    The backbones that were run under all of the heads count.
    """
    table, plain, lines = [], [], []
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
        lines.append(f"{dataset}: {_sentence([(pair, tau) for pair, _, tau in found], len(names))}")
    columns = ["data set", "heads", "backbones", "Spearman [95 % interval]", "Kendall"]
    title = f"How alike two heads rank the backbones by {finished.metric}"
    return Told([Sheet(title, columns, table, grouped=False)] if table else [], lines, plain)


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
    """Answer the question by the two heads that agree least."""
    pair, least = min(found, key=lambda each: each[1].value)
    shown = f"Kendall {bracketed(least.value, least.interval)} between {' and '.join(pair)}"
    low, high = least.interval.low, least.interval.high
    if low is None or high is None:
        answer = "too few patients to tell whether the choice of the head decides the ranking"
    elif least.value <= 0:
        answer = "the choice of the head decides the ranking"
    elif min(tau.interval.low or -1 for _, tau in found) > 0:
        answer = "the choice of the head does not decide the ranking"
    else:
        answer = "whether the choice of the head decides the ranking is open"
    return f"{answer} of {backbones} backbones ({shown}, the least alike)."


HEAD_CHOICE = Series(
    name="heads",
    runs=runs,
    tell=tell,
    fewest=2,
    title="The same backbones under several heads, and how alike these rank them",
)
