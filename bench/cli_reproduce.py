"""`bench reproduce`: the rows of a table of the paper, run again where that can be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.console import Data, Json, Results, out, progress, show

WIDTH = 150  # columns of the tables where the output is no terminal


def reproduce(
    table: Annotated[str, typer.Option(help="4, 5, 6, 7 or C1 of the paper.")],
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="A folder of weights: NAME.safetensors, or what `bench pretrain` writes, for CMD "
            "with its steps, as cmd-l-80k."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this method, as printed; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell the commands, and what stands in the way.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Train for fewer epochs than the recipes say.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Smoke runs on N images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Run the rows of a table of the paper that can run here, and show ours beside the paper's.

    Exit code 0 where all that could run did.
    """
    from bench import reproduce as again
    from bench.cache_place import cache_root
    from bench.display_board import sheet_table
    from bench.recipes import Scope, attempts
    from bench.running import Places

    scope = Scope(data, checkpoints, tuple(only or ()), epochs, device, limit)
    planned = attempts(table.upper(), scope)
    if not as_json:
        show(sheet_table(again.plan_sheet(table.upper(), planned)), width=WIDTH)
    if dry_run:
        found = [again.Result(each) for each in planned]
        for each in [] if as_json else planned:
            out.print(each.command, markup=False, highlight=False, soft_wrap=True)
    else:
        with progress(quiet=as_json) as report:
            found = again.run(planned, Places(results, data, cache_root()), report)
    if as_json:
        print(json.dumps(again.as_json(table.upper(), found)))
    elif not dry_run:
        show(sheet_table(again.result_sheet(table.upper(), found)), width=WIDTH)
    if any(each.failure for each in found):
        raise typer.Exit(1)
