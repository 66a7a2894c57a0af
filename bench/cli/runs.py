"""`bench runs`: list and delete the runs of a results folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bench.board.config import RunFilters
from bench.cli.console import Json, err, out, show
from bench.cli.options import options_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.report import Table
    from bench.board.stored import StoredRun

runs_app = typer.Typer(no_args_is_help=True, help="List and delete the runs of a results folder.")


@runs_app.command("list")
@options_of(RunFilters)
def list_runs(config: RunFilters, as_json: Json = False) -> None:
    """List all stored runs, oldest first: also smoke runs, replaced, damaged and failed ones."""
    from bench.board.stored import filtered, stored_runs

    runs = filtered(stored_runs(config.results), config.board_options())
    if as_json:
        print(json.dumps({"runs": [run.fields for run in runs]}))
        return
    show(_table(str(config.results), runs) if runs else f"{config.results} contains no runs")


@runs_app.command()
@options_of(RunFilters)
def delete(
    config: RunFilters,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Ids of runs, prefixes of ids, or names of backbones. Default: all runs that "
            "match the filters.",
            show_default=False,
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only the remains of failed and unfinished runs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Delete runs: their records, contexts and masks, or what failed runs left.

    Other results folders and the cache are not changed.
    """
    from bench.api.report import several
    from bench.board.stored import COMMITTED, DAMAGED, filtered, selected, stored_runs
    from bench.store.results import Store

    if not (words or failed or config.dataset or config.protocol or config.head):
        raise BenchError(
            "select what to delete: ids, names, --dataset, --protocol, --head or "
            "--failed; `bench runs list` shows the runs."
        )
    runs = filtered(stored_runs(config.results), config.board_options())
    runs = selected(runs, words) if words else runs
    runs = [run for run in runs if not failed or run.state not in (COMMITTED, DAMAGED)]
    if not runs:
        raise BenchError(f"{config.results} contains no such run; see `bench runs list`.")
    if not yes:
        if as_json:
            raise BenchError("--json does not ask for confirmation. Add --yes.")
        show(_table(str(config.results), runs))
        typer.confirm(f"Delete {several(len(runs), 'run')}?", abort=True)
    store = Store(config.results)
    for run in runs:
        store.delete(run.run_id, lambda run=run: err.print(f"waiting for run {run.run_id}"))
    if as_json:
        print(json.dumps({"deleted": [run.run_id for run in runs]}))
    else:
        out.print(f"{several(len(runs), 'run')} deleted", markup=False)


def _table(title: str, runs: Sequence[StoredRun]) -> Table:
    """Build a table of runs, with short ids and without columns that say nothing."""
    from bench.board.stored import COMMITTED
    from bench.render.terminal import fields_table

    lengths = [n for n in (8, 12, 16) if len({run.run_id[:n] for run in runs}) == len(runs)]
    rows = []
    for run in runs:
        date = run.date[:16].replace("T", " ")
        rows.append(run.fields | {"run_id": run.run_id[: lengths[0]], "date": date})
    shown = {name for row in rows for name, value in row.items() if value not in ("", False, [])}
    if all(run.state == COMMITTED for run in runs):
        shown.remove("state")
    rows = [{name: value for name, value in row.items() if name in shown} for row in rows]
    return fields_table(title, rows, spare=("recipe", "view", "flags", "masks"))
