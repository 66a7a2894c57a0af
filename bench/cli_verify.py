"""`bench verify`: is all that was written still what was written?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.console import Data, Json, Results, out, progress
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.verify import Doubt

SHOWN = 5  # doubts of a kind


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
    from bench.cache_place import cache_root_if_any
    from bench.sheet import several

    source = context.get_parameter_source("results")
    if not results.exists() and source is not None and source.name != "DEFAULT":
        raise BenchError(f"there is no {results}: give --results DIR, or a bundle.")
    cache = cache or cache_root_if_any()
    seen: dict[str, int] = {}
    with progress(quiet=as_json) as show:

        def report(what: str, done: int, total: int) -> None:
            seen[what] = total
            show(what, done, total)

        doubts = [
            *(checks.of_results(results, report) if results.exists() else ()),
            *checks.of_data(data, report),
            *(checks.of_cache(cache, report) if cache else ()),
        ]
    if as_json:
        told = [{"where": str(each.where), "what": each.what, "cure": each.cure} for each in doubts]
        print(json.dumps({"sound": not doubts, "looked_at": seen, "doubts": told}))
    for line in () if as_json else _lines(doubts):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    looked_at = ", ".join(f"{what} {count}" for what, count in seen.items() if count)
    if not as_json:
        end = (
            several(len(doubts), "doubt") if doubts else "all that was written is as it was written"
        )
        out.print(f"looked at: {looked_at or 'nothing, since nothing is here'}", highlight=False)
        out.print(end, highlight=False)
    if doubts:
        raise typer.Exit(1)


def _lines(doubts: Sequence[Doubt]) -> Iterator[str]:
    """Tell each doubt; many of one kind, such as of an older version's files, by a few."""
    alike: dict[tuple[str, str], list[Doubt]] = {}
    for each in doubts:
        alike.setdefault((each.what, each.cure), []).append(each)
    for (what, cure), own in alike.items():
        for each in own[:SHOWN]:
            yield f"{each.where}: {what.rstrip('.')}. To mend it: {cure}."
        if len(own) > SHOWN:
            yield f"... and {len(own) - SHOWN} more of this kind: `bench verify --json` names them."
