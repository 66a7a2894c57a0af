"""`bench export` and `bench merge`: move committed runs from one machine to another."""

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
        typer.Argument(help="Ids of runs, or prefixes of ids. Default: all.", show_default=False),
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write committed runs to a bundle that `bench merge` adds to another results folder."""
    from bench.api.report import several
    from bench.board.select import by_id, read_all
    from bench.store.bundle import pack
    from bench.store.results import Store

    records, damaged = read_all(results)
    for problem in damaged:
        err.print(f"left out: {problem}", markup=False)
    if runs:
        selected = {word: by_id(records, word) for word in runs}
        if unknown := [word for word, record in selected.items() if record is None]:
            raise BenchError(
                f"no run in {results} has the id {', '.join(unknown)}. `bench compare` and "
                "`bench leaderboard --json` show the ids."
            )
        records = [record for record in selected.values() if record]
    if not records:
        raise BenchError(f"there are no runs to export in {results}. Create one with `bench run`.")
    ids = sorted({record.run_id for record in records})
    pack(Store(results), ids, to)
    if as_json:
        print(json.dumps({"out": str(to), "runs": ids}))
    else:
        line = f"{several(len(ids), 'run')} in {to}. To add them elsewhere: bench merge {to}"
        out.print(line, markup=False)


def merge(
    source: Annotated[Path, typer.Argument(help="A bundle, or a results folder.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check the runs of a bundle and add the new ones; exit code 1 if a run is refused.

    Boards put runs that are not comparable into separate groups.
    """
    from bench.api.report import several
    from bench.store.bundle import merge as merge_bundle
    from bench.store.results import Store

    merged = merge_bundle(source, Store(results))
    if as_json:
        lists = {"added": merged.added, "existing": merged.existing, "refused": merged.refused}
        print(json.dumps(lists))
    else:
        out.print(
            f"{several(len(merged.added), 'run')} added, {len(merged.existing)} already there, "
            f"{len(merged.refused)} refused",
        )
    for run_id, reason in merged.refused.items():
        err.print(f"refused {run_id}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if merged.refused:
        raise typer.Exit(1)
