"""The ranking: one group of comparable runs per block, rows sorted by a score, best first."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.api import Leaderboard
from bench.api.board import HEADLINE, Block, BoardOptions, Row, Score
from bench.api.record import Record, canonical
from bench.board.blocks import rank_block, score_runs
from bench.board.comparable import settings, shared
from bench.board.controls import merged, over_seeds
from bench.board.scores import dataset_name, holds, label, lower_is_better
from bench.board.select import is_shown, latest

NEW_COLUMN = "ap"  # left out by default if a run of an earlier version lacks its counts
COLUMNS = ("protocol", "recipe")  # the settings that have a column if they vary


def rows(records: Sequence[Record], options: BoardOptions) -> list[Block]:
    """Group comparable runs, and sort the runs of each group by the requested score.

    Smoke runs and runs without the counts of a requested score are left out. Of several runs of one
    request, only the last in `records` is included. The runs of an untrained control with several
    seeds are one row.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in latest([record for record in records if is_shown(record, options)]):
        groups[canonical(shared(record, options.vary)), *record.images].append(record)
    ranked = [_block(group, options) for group in groups.values()]
    blocks = sorted((block for block in ranked if block), key=_natural_order)
    names = [{_entry(row, options) for row in block.rows} for block in blocks]
    all_names = set().union(*names)
    return [
        replace(block, missing=tuple(sorted(all_names - block_names)))
        for block, block_names in zip(blocks, names, strict=True)
    ]


def _natural_order(block: Block) -> list[str | int]:
    """Return a sort key of the title that compares numbers by value: 5 shots before 10."""
    words = re.split(r"(\d+)", block.title)
    return [int(word) if number % 2 else word for number, word in enumerate(words)]


def _entry(row: Row, options: BoardOptions) -> str:
    """Return the parts of a row's name that vary within a block."""
    words = {**settings(row.runs[0]), "head": f"{row.head} head"}
    return " · ".join(words[name] for name in words if name in options.vary)


def _block(group: Sequence[Record], options: BoardOptions) -> Block | None:
    """Return the block of a group; None if no run has the counts of every score."""
    names = list(dict.fromkeys([options.metric, *options.also]))
    may_lack = options.also == HEADLINE and options.metric != NEW_COLUMN
    if may_lack and not all(holds(record, NEW_COLUMN) for record in group):
        names.remove(NEW_COLUMN)
    runs = {seeds[0].run_id: seeds for seeds in over_seeds(group)}
    able, columns = score_runs([merged(seeds) for seeds in runs.values()], names, options)
    if not able:
        return None
    unsorted = [
        _row(runs[record.run_id], record, {name: columns[name][i] for name in names}, options)
        for i, record in enumerate(able)
    ]
    best_first = sorted(unsorted, key=lambda row: (_loss(row, options.metric), row.record.run_id))
    block = Block(_title(group[0], options), shared(group[0], options.vary), best_first)
    return rank_block(block, options)


def _row(
    runs: Sequence[Record], record: Record, scores: Mapping[str, Score], options: BoardOptions
) -> Row:
    varied = {word: settings(record)[word] for word in COLUMNS if word in options.vary}
    return Row(record, runs, label(record), record.spec.head.name, scores, settings=varied)


def _loss(row: Row, metric: str) -> float:
    """Return a sort key of a row, lower is better."""
    mean = row.scores[metric].summary.mean
    if mean is None:
        return float("inf")
    return mean if lower_is_better(metric) else -mean


def _title(record: Record, options: BoardOptions) -> str:
    words = settings(record)
    words |= {"head": f"{words['head']} head", "recipe": f"recipe {words['recipe']}"}
    if words["view"] == "whole":
        del words["view"]
    order = ("protocol", "head", "recipe", "view", "backbone")
    fixed = [words[name] for name in order if name in words and name not in options.vary]
    return " · ".join([dataset_name(record), *fixed])


BOARD = Leaderboard(
    name="ranking", rows=rows, title="Rows by score, with intervals and differences to the best row"
)
