"""`bench verify`: is all that was written still what was written?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.console import Data, Json, Results, out, progress
from bench.errors import BenchError


def verify(
    context: typer.Context,
    results: Results = Path("results"),
    data: Data = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Default: BENCH_CACHE, or the user's cache.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check records, masks, kept trials, data sets, heads and features; exit code 1 on any doubt.

    --results may also name a bundle. Nothing is changed.
    """
    from bench import verify as checks
    from bench.cache import cache_root

    source = context.get_parameter_source("results")
    if not results.exists() and source is not None and source.name != "DEFAULT":
        raise BenchError(f"there is no {results}: give --results DIR, or a bundle.")
    with progress(quiet=as_json) as report:
        doubts = [
            *(checks.of_results(results, report) if results.exists() else ()),
            *checks.of_data(data, report),
            *checks.of_cache(cache or cache_root(), report),
        ]
    if as_json:
        told = [{"where": str(each.where), "what": each.what, "cure": each.cure} for each in doubts]
        print(json.dumps({"sound": not doubts, "doubts": told}))
    for each in () if as_json else doubts:
        line = f"{each.where}: {each.what.rstrip('.')}. To mend it: {each.cure}."
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not as_json and not doubts:
        out.print("all that was written is as it was written")
    if doubts:
        raise typer.Exit(1)
