"""`bench reproduce`: rerun the rows of a table of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.console import Data, Json, Results, out, progress, show

WIDTH = 150  # columns of the tables if the output is not a terminal


def reproduce(
    table: Annotated[str, typer.Option(help="4, 5, 6, 7 or C1 of the paper.")],
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder of weights: NAME.safetensors, or folders written by `bench pretrain`; CMD "
            "names include the steps, as in cmd-l-80k."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this method, named as printed; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the commands and obstacles; run nothing.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs; default: from the recipes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Smoke run on N images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Run the rows of a table of the paper, and compare the scores with the printed ones.

    The exit code is 1 if a run fails. Rows that cannot run here are listed and skipped.
    """
    from bench import reproduce as reproduction
    from bench.cache_place import cache_root
    from bench.display_board import sheet_table
    from bench.recipes import Scope, attempts
    from bench.running import Places

    scope = Scope(data, checkpoints, tuple(only or ()), epochs, device, limit)
    number = table.upper()
    planned = attempts(number, scope)
    if not as_json:
        show(sheet_table(reproduction.plan_sheet(number, planned)), width=WIDTH)
    if dry_run:
        outcomes = [reproduction.Result(attempt) for attempt in planned]
    else:
        with progress(quiet=as_json) as report:
            outcomes = reproduction.run(planned, Places(results, data, cache_root()), report)
    if as_json:
        print(json.dumps(reproduction.as_json(number, outcomes)))
    elif dry_run:
        for attempt in planned:
            out.print(attempt.command, markup=False, highlight=False, soft_wrap=True)
    else:
        show(sheet_table(reproduction.result_sheet(number, outcomes)), width=WIDTH)
    if any(outcome.failure for outcome in outcomes):
        raise typer.Exit(1)
