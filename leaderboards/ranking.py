"""The ranking: a block for what may be compared, rows sorted by a score, with tiers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.alike import protocol_words, shared
from bench.api import Leaderboard
from bench.board import (
    Block,
    BoardOptions,
    Row,
    Score,
    dataset_name,
    label,
    lower_is_better,
    part,
)
from bench.filters import wanted
from bench.judge import judge, score_able
from bench.pick import latest
from bench.record import Record, canonical


def rows(records: Sequence[Record], options: BoardOptions) -> list[Block]:
    """Group the runs that may be compared, and sort each group by the score that was asked for.

    Smoke runs are left out, and those that were made before a score was there to be counted; of the
    runs of one request, repeated or made by other versions of the code, the last one given stands.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in latest([each for each in records if wanted(each, options)]):
        groups[canonical(shared(record, options.vary)), *record.images].append(record)
    made = [_block(group, options) for group in groups.values()]
    blocks = sorted((block for block in made if block), key=_place_on_page)
    own = [dict.fromkeys(_entry(row, options) for row in block.rows) for block in blocks]
    every = {entry for entries in own for entry in entries}
    return [
        replace(block, missing=tuple(sorted(every - entries.keys())))
        for block, entries in zip(blocks, own, strict=True)
    ]


def _place_on_page(block: Block) -> list[str | int]:
    """Sort by the title, numbers by their size: 5 shots before 10."""
    words = re.split(r"(\d+)", block.title)
    return [int(word) if number % 2 else word for number, word in enumerate(words)]


def _entry(row: Row, options: BoardOptions) -> str:
    """Name what a row stands for among those of its block."""
    words = {"backbone": row.backbone, "head": f"{row.head} head", "protocol": row.protocol}
    return " · ".join(words[name] for name in words if name in options.vary)


def _block(group: Sequence[Record], options: BoardOptions) -> Block | None:
    """Make a block; None where no run of it holds counts for every score."""
    names = list(dict.fromkeys([options.metric, *options.also]))
    able, columns = score_able(group, names, options)
    if not able:
        return None
    own = [
        _row(record, {name: column[i] for name, column in columns.items()}, options)
        for i, record in enumerate(able)
    ]
    best_first = sorted(own, key=lambda row: (_place(row, options.metric), row.record.run_id))
    block = Block(_title(group[0], options), shared(group[0], options.vary), best_first)
    return judge(block, options)


def _row(record: Record, scores: Mapping[str, Score], options: BoardOptions) -> Row:
    head = str(part(record, "head")["name"])
    protocol = protocol_words(record) if "protocol" in options.vary else ""
    return Row(record, label(record), head, scores, protocol=protocol)


def _place(row: Row, metric: str) -> float:
    """Give a number that is the lower, the better the row."""
    mean = row.scores[metric].summary.mean
    if mean is None:
        return float("inf")
    return mean if lower_is_better(metric) else -mean


def _title(record: Record, options: BoardOptions) -> str:
    words = {
        "protocol": protocol_words(record),
        "head": f"{part(record, 'head')['name']} head",
        "backbone": label(record),
    }
    fixed = [words[name] for name in words if name not in options.vary]
    return " · ".join([dataset_name(record), *fixed])


BOARD = Leaderboard(
    name="ranking", rows=rows, title="Rows by score, with intervals, tiers and ranks"
)
