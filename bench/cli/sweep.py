"""`bench sweep`: the runs of a grid in a TOML file, here or on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api.run_config import Grid, Needs, Output
from bench.cli.console import progress, show
from bench.cli.options import options_of

if TYPE_CHECKING:
    from bench.runs.grid import ExpandedGrid


@options_of(Output, "output")
@options_of(Needs, "needs")
def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="GRID", help="A TOML file whose keys are options of `bench run`."),
    ],
    output: Output,
    needs: Needs,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Show the runs and estimate features, memory and time; run nothing."
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: its address, auto, or local.",
            rich_help_panel="Cluster",
        ),
    ] = None,
) -> None:
    """Run every combination of the values in a TOML file.

    The same command again resumes: runs in the store are not repeated.
    """
    from bench.cli.run import run_many
    from bench.runs.grid import expand
    from bench.runs.ray_cluster import on_cluster
    from bench.runs.sweep import read

    needs.check()
    grid = Grid.of(read(file))
    expanded = expand(grid)
    if plan:
        _show_plan(expanded, output)
        return
    runs = on_cluster(ray, needs) if ray else None
    run_many(grid, expanded, output, runs)


def _show_plan(expanded: ExpandedGrid, output: Output) -> None:
    from bench.render.grids import with_plain_runs
    from bench.render.terminal import WIDTH
    from bench.runs import sweep as planned
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    session, cells = Session(output.data), with_plain_runs(expanded.cells)
    with progress(quiet=output.as_json) as report:
        refuse([*expanded.problems, *problems(cells, session, report)])
    planned_cells = planned.cells_of(cells, session, Store(output.results))
    table, total = planned.plan_table(planned_cells), planned.summed(planned_cells)
    remarks = planned.remarks(planned_cells)
    if output.as_json:
        rows = [dict(zip(table.names, row, strict=True)) for row in table.rows]
        print(json.dumps({"cells": rows, **total, "notes": remarks}))
        return
    show(table, planned.line(total), *remarks, width=WIDTH)
