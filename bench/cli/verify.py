"""`bench verify`: check all stored files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import Data, Json, Results, out, progress
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.store.files import Problem

MAX_SHOWN = 5  # problems of one kind


def verify(
    context: typer.Context,
    results: Results = Path("results"),
    data: Data = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="The cache. Default: BENCH_CACHE, or the user's cache."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check records, masks, saved trials, data sets and the cache; exit code 1 on any problem.

    --results may also be a bundle. Nothing is changed.
    """
    from bench.api.report import several
    from bench.data.find import check_installed
    from bench.features import cache as feature_cache
    from bench.runs import head_cache
    from bench.store.cache_dir import cache_root_if_any
    from bench.store.verify import check_results

    source = context.get_parameter_source("results")
    if not results.exists() and source is not None and source.name != "DEFAULT":
        raise BenchError(f"there is no {results}. Set --results to a results folder or a bundle.")
    cache = cache or cache_root_if_any()
    checked: dict[str, int] = {}
    with progress(quiet=as_json) as show:

        def report(what: str, done: int, total: int) -> None:
            checked[what] = total
            show(what, done, total)

        problems = [*check_results(results, report), *check_installed(data, report)]
        if cache:
            problems += head_cache.check(cache / "heads", report)
            problems += feature_cache.check(cache / "features", report)
    if as_json:
        rows = [{"path": str(p.path), "problem": p.problem, "fix": p.fix} for p in problems]
        print(json.dumps({"ok": not problems, "checked": checked, "problems": rows}))
    else:
        for line in _lines(problems):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        counts = ", ".join(f"{what} {count}" for what, count in checked.items() if count)
        out.print(f"checked: {counts or 'nothing was found'}", highlight=False)
        out.print(several(len(problems), "problem") if problems else "no problems", highlight=False)
    if problems:
        raise typer.Exit(1)


def _lines(problems: Sequence[Problem]) -> Iterator[str]:
    """Describe the problems; of many of one kind, the first few."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for problem in problems:
        kinds.setdefault((problem.problem, problem.fix), []).append(problem.path)
    for (problem, fix), paths in kinds.items():
        for path in paths[:MAX_SHOWN]:
            yield f"{path}: {problem.rstrip('.')}. To fix it: {fix}."
        if len(paths) > MAX_SHOWN:
            yield f"... and {len(paths) - MAX_SHOWN} more of this kind; see `bench verify --json`."
