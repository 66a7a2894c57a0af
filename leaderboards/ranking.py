"""The ranking: a block for each data set and protocol, rows sorted by a score, with tiers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.api import Leaderboard
from bench.board import (
    HEADLINE,
    Block,
    BoardOptions,
    Row,
    dataset_name,
    label,
    lower_is_better,
    part,
    scores,
)
from bench.judge import judge
from bench.record import Record, canonical


def rows(records: Sequence[Record], options: BoardOptions) -> list[Block]:
    """Group the runs that may be compared, and sort each group by the score that was asked for.

    Smoke runs are left out; of the runs of one request, repeated or made by other versions of the
    code, the last one given stands.
    """
    groups: dict[bytes, list[Record]] = defaultdict(list)
    for record in _latest([each for each in records if _wanted(each, options)]):
        groups[canonical(_key(record) | {"images": record.images})].append(record)
    blocks = [_block(group, options) for group in groups.values()]
    return sorted(blocks, key=lambda block: block.title)


def _wanted(record: Record, options: BoardOptions) -> bool:
    own = {
        dataset_name(record): options.dataset,
        str(part(record, "protocol")["name"]): options.protocol,
        str(part(record, "head")["name"]): options.head,
    }
    return all(asked in (None, name) for name, asked in own.items()) and "smoke" not in record.flags


def _latest(records: Sequence[Record]) -> list[Record]:
    latest: dict[bytes, Record] = {}
    for record in records:
        latest[canonical({**record.spec, "repeat": 0, "sources": ""})] = record
    return list(latest.values())


def _key(record: Record) -> dict[str, object]:
    return {
        name: record.spec[name] for name in ("dataset", "scored", "protocol", "metrics_version")
    }


def _block(group: Sequence[Record], options: BoardOptions) -> Block:
    names = dict.fromkeys([options.metric, *HEADLINE])
    own = [_row(record, list(names), options) for record in group]
    best_first = sorted(own, key=lambda row: (_place(row, options.metric), row.record.run_id))
    return judge(Block(_title(group[0]), _key(group[0]), best_first), options)


def _row(record: Record, names: list[str], options: BoardOptions) -> Row:
    head = str(part(record, "head")["name"])
    return Row(record, label(record), head, scores(record, names, options))


def _place(row: Row, metric: str) -> float:
    """Give a number that is the lower, the better the row."""
    mean = row.scores[metric].summary.mean
    if mean is None:
        return float("inf")
    return mean if lower_is_better(metric) else -mean


def _title(record: Record) -> str:
    protocol = dict(part(record, "protocol"))
    words = [dataset_name(record), str(protocol.pop("name"))]
    folds = protocol.pop("folds")
    settings = [f"{key} {value}" for key, value in protocol.items() if key != "seed" or value]
    settings.append(f"{folds} folds by patient" if folds else "official split")
    return f"{' · '.join(words)} ({', '.join(settings)})"


BOARD = Leaderboard(
    name="ranking", rows=rows, title="Rows by score, with intervals, tiers and ranks"
)
