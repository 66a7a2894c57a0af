"""`bench run`: one run, or one for each combination of several values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api.board import BoardOptions
from bench.api.data import Progress
from bench.api.report import Result
from bench.api.run_config import Grid, Output, RunConfig
from bench.cli.console import progress, show
from bench.cli.options import given_options, options_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.runs.execute import Paths
    from bench.runs.grid import ExpandedGrid

    Runs = Callable[[Sequence[RunConfig], Paths, Progress], Iterable[Result]]


@options_of(RunConfig, "grid", Grid.of)
@options_of(Output, "output")
def run(
    context: typer.Context,
    grid: Grid,
    output: Output,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with options of this command, which the command line overrides.",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Train a head on the features of a backbone, score it, and store the record.

    The same command again prints the stored run at once. An option A,B,... takes several values and
    runs each combination; a run that fails stops no other, and the same command resumes.
    """
    from bench.render.grids import is_single
    from bench.runs.grid import expand
    from bench.runs.sweep import read

    if config is not None:
        changed = {
            name: grid.lists.get(name, getattr(grid.config, name))
            for name in given_options(context, RunConfig)
        }
        grid = Grid.of(read(config) | changed)
    expanded = expand(grid)
    if is_single(grid, expanded):
        _run_one(expanded, output)
    else:
        run_many(grid, expanded, output)


def board_options(output: Output) -> BoardOptions:
    """Return how intervals are computed; raise a BenchError if an option is invalid."""
    output.check()
    return BoardOptions(ci=output.ci, resamples=output.resamples)


def paths(output: Output) -> Paths:
    """Return the folders of the results, the data sets and the cache."""
    from bench.runs.execute import Paths
    from bench.store.cache_dir import cache_root

    return Paths(output.results, output.data, cache_root() if output.cache else None)


def _run_one(expanded: ExpandedGrid, output: Output) -> None:
    """Run a single cell and report all of its scores."""
    from bench.board import scores
    from bench.render.json import difference_json, run_json
    from bench.render.runs import difference_table, run_notes, run_table
    from bench.runs.execute import execute
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    refuse(expanded.problems)
    if output.plot is not None:
        raise BenchError("--plot draws curves of several runs: give lists, `--shots 1,5,10`.")
    (config,) = expanded.cells
    session, options, plain = Session(output.data), board_options(output), None
    run_paths = replace(paths(output), session=session)
    with progress(quiet=output.as_json) as report:
        if config.ttt:
            refuse(problems([config], session, report))  # else only the second run would fail
            plain = execute(config.without_ttt(), run_paths, report)
        outcome = execute(
            config, run_paths, report, force=output.force, save_masks=output.save_masks
        )
        record = outcome.record
        values = scores.scores(record, scores.counted(record), options, report)
    gains = plain and {name: scores.difference(record, plain.record, name) for name in values}
    if output.as_json:
        document = run_json(record, values, outcome.context) | {"cached": outcome.cached}
        if gains is not None:
            document["minus_without_ttt"] = {
                name: difference_json(gain) for name, gain in gains.items()
            }
        print(json.dumps({"runs": [document]}))
        return
    show(run_table(record, values))
    if gains is not None:
        title = "minus the same run without test-time training, paired by patient"
        show(difference_table(title, gains))
    show(*run_notes(outcome, Store(output.results).folder(record.run_id)))


def run_many(grid: Grid, expanded: ExpandedGrid, output: Output, runs: Runs | None = None) -> None:
    """Run the cells of a grid and report them in a table; exit with code 1 if some failed.

    Args:
        runs: runs the cells; None runs them one after the other in this process.
    """
    from bench.render import grids
    from bench.render.terminal import WIDTH
    from bench.runs.grid import run as run_cells
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    store, session, options = Store(output.results), Session(output.data), board_options(output)
    store.refuse_if_read_only()
    if output.plot is not None:
        from bench.figures.style import check_kind

        grids.refuse_plot(expanded)
        check_kind(output.plot)
    cells = grids.with_plain_runs(expanded.cells)
    with progress(quiet=output.as_json) as report:
        refuse([*expanded.problems, *problems(cells, session, report)])
        run_paths = replace(paths(output), session=session)
        if runs is None:
            force, masks = output.force, output.save_masks
            results = list(run_cells(cells, run_paths, report, force=force, save_masks=masks))
        else:
            results = list(runs(cells, run_paths, report))
    reports = grids.reports(grid, expanded, results, store, options)
    drawn = []
    if output.plot is not None:
        from bench.figures import curves

        plots = [plot for series_report in reports.values() for plot in series_report.curves]
        drawn = curves.draw(plots, output.plot)
    if output.as_json:
        print(json.dumps(grids.grid_json(results, reports, options)))
    else:
        page = grids.page(results, reports, options, store)
        show(*page, *(f"drawn: {path}" for path in drawn), width=WIDTH)
    if any(result.reason for result in results):
        raise typer.Exit(1)
