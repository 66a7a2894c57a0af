"""Collect the contents of a report: boards, results of series, and excluded runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import registry
from bench.api.board import Block, BoardOptions
from bench.api.record import Record
from bench.api.report import ReportOptions, SeriesReport
from bench.board.reporting import stored_groups
from bench.board.select import check_filters, is_shown, latest, read_all
from bench.errors import BenchError
from bench.store.results import Store

VERSIONS = ("bench", "torch", "timm", "numpy", "python")


@dataclass(frozen=True)
class Section:
    """The report of a protocol or series on a group of stored runs."""

    name: str
    title: str
    report: SeriesReport


@dataclass(frozen=True)
class Gathered:
    """The contents of a report.

    Attributes:
        sections: reports of protocols and series on several runs.
        left_out: what is missing, with the reason, one line each: runs that are not on a board, and
            protocols that could not report.
        hashes: sha256 of the record file of each run on a board, by run id.
        versions: versions of the libraries that produced the runs, by library.
        digest: sha256 over all hashes.
    """

    store: Store
    options: BoardOptions
    blocks: Sequence[Block]
    sections: Sequence[Section]
    left_out: Sequence[str]
    hashes: dict[str, str]
    versions: dict[str, list[str]]
    digest: str

    @property
    def records(self) -> list[Record]:
        """The runs on the boards, in board order."""
        return [run for block in self.blocks for row in block.rows for run in row.runs]


def gather(results: Path, options: BoardOptions) -> Gathered:
    """Read a results folder and rank its runs.

    Raises:
        BenchError: there are no runs to show, or a filter matches no run.
    """
    records, damaged = read_all(results)
    check_filters(records, options)
    chosen = [record for record in records if is_shown(record, options)]
    blocks = registry.get("leaderboards", "ranking").rows(chosen, options)
    if not blocks:
        raise BenchError(
            f"there are no runs to show in {results}. Create one with `bench run --backbone "
            f"cmd-tiny --dataset synthetic --results {results}`, or choose another folder with "
            "`--results DIR`."
        )
    store = Store(results)
    shown = {run.run_id for block in blocks for row in block.rows for run in row.runs}
    excluded = [record for record in records if record.run_id not in shown]
    errors: list[str] = []
    sections = _sections(latest(chosen), options.metric, errors)
    hashes = {
        run_id: hashlib.sha256((store.folder(run_id) / "record.json").read_bytes()).hexdigest()
        for run_id in sorted(shown)
    }
    listed = "".join(f"{run_id} {sha256}\n" for run_id, sha256 in hashes.items())
    return Gathered(
        store=store,
        options=options,
        blocks=blocks,
        sections=sections,
        left_out=[*_left_out(store, excluded, damaged), *errors],
        hashes=hashes,
        versions=_versions(store, hashes),
        digest=hashlib.sha256(listed.encode()).hexdigest(),
    )


def _sections(records: Sequence[Record], metric: str, errors: list[str]) -> list[Section]:
    """Collect the reports of all protocols and series; errors are appended to `errors`."""
    sections = []
    for name in registry.names("protocols"):
        protocol = registry.get("protocols", name)
        if protocol.report is None or protocol.group_by is None:
            continue
        try:
            groups = stored_groups(records, protocol.group_by)
            reports = [protocol.report(runs, records, ReportOptions(metric)) for runs in groups]
        except BenchError as error:
            errors.append(f"{name}: {error}")
            continue
        sections += [Section(name, protocol.title, report) for report in reports if report.tables]
    return sections


def _left_out(store: Store, records: Sequence[Record], damaged: Sequence[BenchError]) -> list[str]:
    smoke = sum("smoke" in record.flags for record in records)
    others = len(records) - smoke
    lines = [f"failed run: {failure}" for failure in store.failures()]
    lines += [f"damaged record: {error}" for error in damaged]
    if smoke:
        lines.append(f"{smoke} smoke runs (--limit): never on a board")
    if others:
        lines.append(f"{others} runs replaced by a later run, or without counts for these metrics")
    return lines


def _versions(store: Store, run_ids: Iterable[str]) -> dict[str, list[str]]:
    contexts = [store.context(run_id) for run_id in run_ids]
    versions = {
        name: sorted({str(context[name]) for context in contexts if context.get(name)})
        for name in VERSIONS
    }
    return {name: values for name, values in versions.items() if values}
