"""`bench sweep`: the runs of a grid that a file asks for, here or on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import Data, Json, Results, progress, show

if TYPE_CHECKING:
    from bench.runs.grid import ExpandedGrid


def sweep(
    grid: Annotated[Path, typer.Argument(help="A TOML file: its keys are options of `bench run`.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Tell the runs, the features and the time; run nothing.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster: its address, auto, or local."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="--ray: CPU cores a run.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="--ray: GPUs a run; 0.5 shares one.")] = 0.0,
    memory_gib: Annotated[float, typer.Option(min=0, help="--ray: memory a run.")] = 0.0,
    data: Data = None,
    results: Results = Path("results"),
    cache: Annotated[bool, typer.Option(help="Keep the features of frozen extractors.")] = True,
    as_json: Json = False,
) -> None:
    """Run every cell of a grid: of backbones, data sets, protocols, heads, shots, seeds, ...

    The same command goes on where it was stopped; a run that is in the store is not made again.
    """
    from bench.cli.run import manner_of, run_many
    from bench.runs.grid import expand
    from bench.runs.options import grid_of
    from bench.runs.ray import Needs, on_cluster
    from bench.runs.sweep import read, usual

    given = read(grid)
    values = usual() | given
    values |= {"data": data, "results": results, "cache": cache, "as_json": as_json}
    asked = grid_of(values, names_backbone="backbone" in given)
    expansion = expand(asked)
    if plan:
        _show_plan(expansion, data, results, as_json=as_json)
        return
    runs = on_cluster(ray, Needs(cpus, gpus, memory_gib)) if ray else None
    run_many(asked, expansion, manner_of(values), runs)


def _show_plan(expansion: ExpandedGrid, data: Path | None, results: Path, *, as_json: bool) -> None:
    from bench.render.grids import with_plain_runs
    from bench.render.terminal import WIDTH
    from bench.runs import sweep as planned
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    session, cells = Session(data), with_plain_runs(expansion.cells)
    with progress(quiet=as_json) as report:
        refuse([*expansion.problems, *problems(cells, session, report)])
    told = planned.cells_of(cells, session, Store(results))
    total = planned.summed(told)
    if as_json:
        table = planned.plan_table(told)
        plain = [dict(zip(table.names, row, strict=True)) for row in table.rows]
        print(json.dumps({"cells": plain, **total}))
        return
    show(planned.plan_table(told), planned.line(total), width=WIDTH)
