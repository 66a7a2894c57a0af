"""`bench sweep`: the runs of a grid that a file asks for, here or on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.console import Data, Json, Results, progress, show

if TYPE_CHECKING:
    from bench.grid import Expansion


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
    from bench.asked import grid_of
    from bench.cli_run import manner_of, run_many
    from bench.grid import expand
    from bench.on_ray import Needs, on_cluster
    from bench.sweep import read, usual

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


def _show_plan(expansion: Expansion, data: Path | None, results: Path, *, as_json: bool) -> None:
    from bench import sweep as planned
    from bench.desk import Desk
    from bench.grid_report import WIDTH, with_twins
    from bench.preflight import problems, refuse
    from bench.sheet import rich_table
    from bench.store import Store

    desk, cells = Desk(data), with_twins(expansion.cells)
    with progress(quiet=as_json) as report:
        refuse([*expansion.problems, *problems(cells, desk, report)])
    told = planned.cells_of(cells, desk, Store(results))
    total = planned.summed(told)
    if as_json:
        rows = planned.sheet(told)
        plain = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
        print(json.dumps({"cells": plain, **total}))
        return
    show(rich_table(planned.sheet(told)), planned.line(total), width=WIDTH)
