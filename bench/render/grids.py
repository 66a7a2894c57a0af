"""Reports on the runs of a grid: one row per run, and what several runs show together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.api import Series
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.api.report import (
    DASH,
    Cell,
    ReportOptions,
    Result,
    SeriesReport,
    Table,
    p_cell,
    several,
)
from bench.api.run_config import Grid, RunConfig
from bench.board.data_notes import notes_on_data
from bench.board.reporting import head_of
from bench.board.scores import counted, dataset_name, difference, label, score, scores
from bench.board.select import read_all
from bench.errors import BenchError
from bench.render.boards import interval_notes
from bench.render.json import run_json
from bench.render.runs import weight_notes
from bench.render.seeds import report_seeds
from bench.runs.grid import (
    ExpandedGrid,
    protocol_name,
    recipe_words,
    varied_recipe,
    without_duplicates,
)
from bench.store.results import Store

NAMES = ("backbone", "data set", "protocol", "head")


def reports(
    grid: Grid,
    expansion: ExpandedGrid,
    results: Sequence[Result],
    store: Store,
    options: BoardOptions,
) -> dict[str, SeriesReport]:
    """Return the reports of protocols and series on their runs, by name, and that over seeds."""
    experiments = [story for story in expansion.stories if story.teller.report is not None]
    stored = read_all(store.root)[0] if experiments else []
    by_name = {}
    recipe = varied_recipe(expansion.cells)
    for experiment in experiments:
        protocol = experiment.teller
        assert protocol.report is not None
        records: dict[str, list[Record]] = {}  # runs of different recipes are reported separately
        for result in results:
            if result.record is not None and result.config in experiment.cells:
                name = ", ".join([protocol.name, *recipe_words(result.config, recipe)])
                records.setdefault(name, []).append(result.record)
        report_options = ReportOptions(options.metric, grid.series)
        for name in records or {protocol.name: []}:
            by_name[name] = protocol.report(records.get(name, []), stored, report_options)
    over_seeds = report_seeds(results, options)
    return by_name | {"seeds": over_seeds} if over_seeds.tables else by_name


def with_plain_runs(cells: Sequence[RunConfig]) -> list[RunConfig]:
    """Insert before each cell with test-time training the same cell without it."""
    pairs = [[cell.without_ttt(), cell] if cell.ttt else [cell] for cell in cells]
    return without_duplicates([cell for pair in pairs for cell in pair])


def page(
    results: Sequence[Result],
    reports: Mapping[str, SeriesReport],
    options: BoardOptions,
    store: Store,
) -> list[Table | str]:
    """Return the tables and lines that `bench run` shows for several runs."""
    return [
        results_table(results, options),
        *_ttt_tables(results, options),
        *(table for report in reports.values() for table in report.tables),
        *(line for report in reports.values() for line in report.lines),
        *lines(results, options, store),
    ]


def results_table(results: Sequence[Result], options: BoardOptions) -> Table:
    """Build a table with one row per run; the title counts the runs that failed."""
    done = sum(result.record is not None for result in results)
    title = several(done, "run")
    if done < len(results):
        title = f"partial: {done} of {len(results)} runs"
    recipe = varied_recipe([result.config for result in results])
    has_sides = len({result.config.input_px for result in results}) > 1
    rows: list[list[Cell | str]] = []
    for result in results:
        protocol = protocol_name(result.config, several=has_sides, recipe=recipe)
        if result.outcome is None:
            names = _request_names(result.config)
            rows.append([*names[:2], protocol, names[3], "failed", DASH])
            continue
        record = result.outcome.record
        summary = score(record, options.metric, options).summary
        cell = Cell.of(summary.mean, summary.interval, spread=summary.spread)
        state = "cached" if result.outcome.cached else "committed"
        rows.append([label(record), dataset_name(record), protocol, head_of(record), state, cell])
    return Table(title, [*NAMES, "state", f"{options.metric} [95 % interval]"], rows)


def lines(results: Sequence[Result], options: BoardOptions, store: Store) -> list[str]:
    """Return why runs failed, notes on the others, and where they are stored."""
    failed = []
    for result in results:
        if result.reason:
            backbone, dataset, protocol, _ = _request_names(result.config)
            failed.append(f"failed: {backbone} on {dataset}, {protocol}: {result.reason}")
    outcomes = [result.outcome for result in results if result.outcome is not None]
    notes = []
    for outcome in outcomes:
        summary = score(outcome.record, options.metric, options).summary
        notes += interval_notes([summary.interval.note])
        notes += weight_notes(outcome.record)
    stored = [f"records in {store.root / 'runs'}"] if outcomes else []
    on_data = notes_on_data(outcome.record for outcome in outcomes)
    return [*failed, *on_data, *dict.fromkeys(notes), *stored]


def grid_json(
    results: Sequence[Result], reports: Mapping[str, SeriesReport], options: BoardOptions
) -> dict[str, object]:
    """Return several runs and the reports on them as a JSON object."""
    runs, failed = [], []
    for result in results:
        if result.outcome is None:
            backbone, dataset, protocol, head = _request_names(result.config)
            names = {"backbone": backbone, "dataset": dataset, "protocol": protocol, "head": head}
            failed.append({**names, "reason": result.reason})
            continue
        record = result.outcome.record
        by_name = scores(record, counted(record), options)
        document = run_json(record, by_name, result.outcome.context)
        runs.append({**document, "cached": result.outcome.cached})
    series = {
        name: {"rows": list(report.json), "statement": list(report.lines)}
        for name, report in reports.items()
    }
    return {"runs": runs, "failed": failed, "partial": bool(failed), "reports": series}


def refuse_plot(expansion: ExpandedGrid) -> None:
    """Check before anything is run that several runs can be plotted as curves.

    Raises:
        BenchError: no protocol or series with a report has several runs.
    """
    if not any(story.teller.report and len(story.cells) > 1 for story in expansion.stories):
        raise BenchError("--plot draws curves of several runs: give lists, `--shots 1,5,10`.")


def is_single(grid: Grid, expansion: ExpandedGrid) -> bool:
    """Return whether the grid is one run, and no series."""
    has_series = any(isinstance(story.teller, Series) for story in expansion.stories)
    return not has_series and all(len(values) == 1 for values in grid.lists.values())


def _ttt_tables(results: Sequence[Result], options: BoardOptions) -> list[Table]:
    """Compare the runs with test-time training with the same runs without it."""
    rows = []
    for result in results:
        if not result.config.adaptation or result.record is None:
            continue
        config = result.config.without_ttt()
        without = [other.record for other in results if other.record and other.config == config]
        if without:
            record, gain = result.record, difference(result.record, without[0], options.metric)
            names = [label(record), dataset_name(record), protocol_name(result.config)]
            cell = Cell.of(gain.mean, gain.interval)
            rows.append([*names, head_of(record), cell, p_cell(gain.p)])
    title = "minus the same run without test-time training, paired by patient"
    return [Table(title, [*NAMES, options.metric, "p"], rows)] if rows else []


def _request_names(config: RunConfig) -> tuple[str, str, str, str]:
    """Return the backbone, data set, protocol and head of a config without a record."""
    dataset = (
        f"{config.dataset} to {config.target_dataset}" if config.target_dataset else config.dataset
    )
    if config.shift:
        dataset += f" ({config.shift})"
    return config.backbone, dataset, protocol_name(config), config.head or "its own"
