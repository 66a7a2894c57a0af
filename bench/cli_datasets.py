"""`bench datasets`: list, check, prepare, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.console import Data, Json, out, progress, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.fetch import Prepared

datasets_app = typer.Typer(
    no_args_is_help=True, help="List, check, prepare and download data sets."
)


@datasets_app.command("list")
def datasets_list(data: Data = None, as_json: Json = False) -> None:
    """List the data sets, and where they were found."""
    from bench import listing, tables

    rows = listing.rows("datasets", data)
    if as_json:
        print(json.dumps(rows))
        return
    show(tables.plugins_table("data sets", rows))


@datasets_app.command("check")
def datasets_check(
    place: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder with manifest.csv, or a set's name.")
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Find every problem of a data set folder; exit code 2 where there is one."""
    from bench.data import find, installed
    from bench.folder import check

    folder = Path(place)
    named = installed(data)
    if place in named and not folder.is_dir():
        root = named[place] or find(place, data).root
        if root is None:
            raise BenchError(f"{place} is built in: there is no folder to check.")
        folder = root
    with progress(quiet=as_json) as report:
        problems = check(folder, report)
    if as_json:
        print(json.dumps({"folder": str(folder), "problems": problems}))
    for problem in [] if as_json else problems:
        out.print(f"- {problem}", markup=False, highlight=False, soft_wrap=True)
    if not as_json:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        out.print(f"{count} in {folder}", markup=False)
    if problems:
        raise typer.Exit(2)


@datasets_app.command("prepare")
def datasets_prepare(
    name: Annotated[str, typer.Argument(help="The data set, as `bench datasets list` names it.")],
    raw: Annotated[Path, typer.Option("--from", help="The unpacked official release.")],
    to: Annotated[Path, typer.Option("--out", help="The data directory; NAME is made in it.")],
    as_json: Json = False,
) -> None:
    """Turn an official release into a data set folder."""
    from bench import fetch, registry

    with progress(quiet=as_json) as report:
        prepared = fetch.prepare(registry.get("datasets", name), raw, to / name, report)
    _tell_prepared(prepared, to / name, as_json)


@datasets_app.command("download")
def datasets_download(
    name: Annotated[str, typer.Argument(help="The data set, as `bench datasets list` names it.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="The data directory. Default: the user's cache.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download an openly hosted release, verify it, and prepare it."""
    from bench import fetch, registry
    from bench.cache import cache_root

    home = to or cache_root() / "data"
    if (home / name / "manifest.csv").exists():
        raise BenchError(f"{home / name} holds a data set already; choose another --out.")
    with progress(quiet=as_json) as report:
        dataset = registry.get("datasets", name)
        raw = fetch.download(dataset, cache_root() / "downloads" / name, progress=report)
        prepared = fetch.prepare(dataset, raw, home / name, report)
    _tell_prepared(prepared, home / name, as_json)


def _tell_prepared(prepared: Prepared, folder: Path, as_json: bool) -> None:
    if as_json:
        told = {"folder": str(folder), "images": prepared.images, "notes": prepared.notes}
        print(json.dumps(told))
        return
    for note in prepared.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"{prepared.images} images in {folder}", markup=False)
