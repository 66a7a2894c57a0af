"""`bench verify`: is all that was written still what was written?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.api import Progress
from bench.cli.console import Data, Json, Results, out, progress
from bench.data.find import installed, without_manifest
from bench.data.manifest import Row, match, parse
from bench.data.manifest import content_of as data_of
from bench.errors import BenchError
from bench.features.cache import damaged
from bench.store.verify import Problem

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
    from bench.api.report import several
    from bench.store import verify as checks
    from bench.store.cache_dir import cache_root_if_any

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
            *of_data(data, report),
            *(of_cache(cache, report) if cache else ()),
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


def _lines(doubts: Sequence[Problem]) -> Iterator[str]:
    """Tell each doubt; many of one kind, such as of an older version's files, by a few."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for each in doubts:
        alike.setdefault((each.what, each.cure), []).append(each)
    for (what, cure), own in alike.items():
        for each in own[:SHOWN]:
            yield f"{each.where}: {what.rstrip('.')}. To mend it: {cure}."
        if len(own) > SHOWN:
            yield f"... and {len(own) - SHOWN} more of this kind: `bench verify --json` names them."


def of_data(data_dir: Path | None, progress: Progress) -> Iterator[Problem]:
    """Compare every file of the installed data sets with the manifests."""
    for home in without_manifest(data_dir):
        cure = "restore it, or prepare the data set again with `bench datasets prepare`"
        yield Problem(home / "manifest.csv", "it is missing: the data set was not checked", cure)
    homes = sorted({home for home in installed(data_dir).values() if home is not None})
    for home in homes:
        rows, problems = parse(home)
        for problem in problems:
            yield Problem(home / "manifest.csv", problem, f"`bench datasets check {home}`")
        for done, row in enumerate(rows):
            progress(f"data set {home.name}", done, len(rows))
            yield from _of_row(row)
        if not problems:
            yield from _unlisted(home, rows)
        progress(f"data set {home.name}", len(rows), len(rows))


def _unlisted(home: Path, rows: Sequence[Row]) -> Iterator[Problem]:
    """Find files in the image and label folders that are not in the manifest."""
    named = {home / path for row in rows for path in (row.image, row.label)}
    tops = sorted({path.relative_to(home).parts[0] for path in named if path.parent != home})
    paths = [path for top in tops for path in sorted((home / top).rglob("*"))]
    for path in paths:
        if path.is_file() and path not in named and not path.name.startswith("."):
            yield Problem(path, "it is not in the manifest", "delete it, or move it elsewhere")


def _of_row(row: Row) -> Iterator[Problem]:
    for path, sha256 in (row.image, row.image_sha256), (row.label, row.label_sha256):
        try:
            match(data_of(row.root / path), row.root / path, sha256)
        except BenchError as error:
            cure = "restore the file, or recreate the data set: `bench datasets prepare` or `make`"
            yield Problem(row.root / path, str(error), cure)


def of_cache(cache: Path, progress: Progress) -> Iterator[Problem]:
    """Check every cached head and every cached feature map."""
    from bench.runs.head_cache import damage

    files = sorted(cache.glob("heads/*.safetensors"))
    for done, path in enumerate(files):
        progress("heads", done, len(files))
        if reason := damage(path):
            yield Problem(path, reason, "delete it; it is trained again")
    progress("heads", len(files), len(files))
    for path, reason in damaged(cache / "features", progress):
        yield Problem(path, reason, "delete it, or run `bench cache clear`; it is recomputed")
