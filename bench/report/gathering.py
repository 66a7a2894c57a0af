"""What a report is made of: a store's board, what series tell of it, and what is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import registry
from bench.board import Block, BoardOptions
from bench.errors import BenchError
from bench.filters import refuse_unmatched, wanted
from bench.pick import latest, read_all
from bench.record import Record
from bench.sheet import Told
from bench.store import Store

VERSIONS = ("bench", "torch", "timm", "numpy", "python")


@dataclass(frozen=True)
class Story:
    """What a protocol or a series tells of one set of runs, under its own title."""

    name: str
    title: str
    told: Told


@dataclass(frozen=True)
class Gathered:
    """A store as a report shows it.

    Attributes:
        stories: what protocols and series say of several runs together.
        untold: why a protocol or a series could not tell of its runs.
        left_out: runs that are not on the board, and why, a line each.
        hashes: sha256 of the file of each record on the board, by run.
        versions: of the libraries that made these runs, by name, sorted.
        digest: sha256 over all the hashes.
    """

    store: Store
    options: BoardOptions
    blocks: Sequence[Block]
    stories: Sequence[Story]
    untold: Sequence[str]
    left_out: Sequence[str]
    hashes: dict[str, str]
    versions: dict[str, list[str]]
    digest: str

    @property
    def records(self) -> list[Record]:
        """The runs on the board, in its order."""
        return [row.record for block in self.blocks for row in block.rows]


def gather(results: Path, options: BoardOptions) -> Gathered:
    """Read a store and judge it.

    Raises:
        BenchError: there is no run to show, or a filter names what no run is of.
    """
    records, damaged = read_all(results)
    refuse_unmatched(records, options)
    chosen = [each for each in records if wanted(each, options)]
    blocks = registry.get("leaderboards", "ranking").rows(chosen, options)
    if not blocks:
        raise BenchError(
            f"there are no runs to show in {results}. Make one: `bench run --backbone cmd-tiny "
            f"--dataset synthetic --results {results}`; `--results DIR` names another store."
        )
    store = Store(results)
    shown = {row.record.run_id for block in blocks for row in block.rows}
    untold: list[str] = []
    stories = _stories(latest(chosen), options, untold)
    hashes = {run_id: _hash_of(store, run_id) for run_id in sorted(shown)}
    listed = "".join(f"{run_id} {own}\n" for run_id, own in hashes.items())
    return Gathered(
        store=store,
        options=options,
        blocks=blocks,
        stories=stories,
        untold=untold,
        left_out=_left_out(store, [each for each in records if each.run_id not in shown], damaged),
        hashes=hashes,
        versions=_versions(store, hashes),
        digest=hashlib.sha256(listed.encode()).hexdigest(),
    )


def _stories(records: Sequence[Record], options: BoardOptions, untold: list[str]) -> list[Story]:
    """Let each protocol and series that can tell of stored runs do so."""
    stories = []
    for name in registry.names("protocols"):
        teller = registry.get("protocols", name)
        if teller.recall is None:
            continue
        try:
            stories += [Story(name, teller.title, told) for told in teller.recall(records, options)]
        except BenchError as error:
            untold.append(f"{name}: {error}")
    return stories


def _left_out(store: Store, records: Sequence[Record], damaged: Sequence[BenchError]) -> list[str]:
    smoke = sum("smoke" in each.flags for each in records)
    others = len(records) - smoke
    lines = [f"failed run: {each}" for each in store.failures()]
    lines += [f"damaged record: {each}" for each in damaged]
    lines += [f"{smoke} smoke runs (--limit): never on a board"] if smoke else []
    if others:
        lines.append(f"{others} runs that a later run replaces, or without counts for these scores")
    return lines


def _hash_of(store: Store, run_id: str) -> str:
    return hashlib.sha256((store.folder(run_id) / "record.json").read_bytes()).hexdigest()


def _versions(store: Store, run_ids: Iterable[str]) -> dict[str, list[str]]:
    contexts = [store.context(run_id) for run_id in run_ids]
    found = {name: {str(each[name]) for each in contexts if each.get(name)} for name in VERSIONS}
    return {name: sorted(own) for name, own in found.items() if own}
