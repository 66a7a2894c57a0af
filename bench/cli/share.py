"""`bench export` and `bench merge`: committed runs from one machine to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import Json, Results, err, out
from bench.errors import BenchError


def export(
    to: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .zip.")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids of runs, or the starts of them. Default: all.", show_default=False
        ),
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Pack committed runs into a bundle that `bench merge` checks and takes in."""
    from bench.api.report import several
    from bench.board.select import by_id, read_all
    from bench.store.bundle import pack
    from bench.store.results import Store

    records, damaged = read_all(results)
    for each in damaged:
        err.print(f"left out: {each}", markup=False)
    found = {word: by_id(records, word) for word in runs or []}
    unknown = [word for word, record in found.items() if record is None]
    if unknown:
        raise BenchError(
            f"no run in {results} has the id {', '.join(unknown)}: `bench compare`, "
            "`bench leaderboard --json` and `--csv` tell ids."
        )
    chosen = [each for each in found.values() if each] if runs else records
    if not chosen:
        raise BenchError(f"no runs to export in {results}: `bench run` makes one.")
    ids = sorted({each.run_id for each in chosen})
    pack(Store(results), ids, to)
    if as_json:
        print(json.dumps({"out": str(to), "runs": ids}))
        return
    out.print(
        f"{several(len(ids), 'run')} in {to}. To take them in: bench merge {to}", markup=False
    )


def merge(
    source: Annotated[Path, typer.Argument(help="A bundle, or a folder of results.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check the runs of a bundle, and take in those that are not there; exit code 1 if one is bad.

    Runs that may not be compared stand in blocks of their own on every board.
    """
    from bench.api.report import several
    from bench.store.bundle import merge as merged
    from bench.store.results import Store

    found = merged(source, Store(results))
    if as_json:
        told = {"taken": found.taken, "there": found.there, "refused": found.refused}
        print(json.dumps(told))
    else:
        out.print(
            f"{several(len(found.taken), 'run')} taken in, {len(found.there)} were there, "
            f"{len(found.refused)} refused",
        )
    for run_id, reason in found.refused.items():
        err.print(f"refused {run_id}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if found.refused:
        raise typer.Exit(1)
