"""`bench datasets`: list, check, make, prepare, download."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import Data, Json, out, progress, show
from bench.cli.options import options_of
from bench.data.config import MakeConfig
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.data.create import Plan
    from bench.data.download import Prepared

datasets_app = typer.Typer(
    no_args_is_help=True, help="List, check, make, prepare and download data sets."
)


@datasets_app.command("list")
def datasets_list(data: Data = None, as_json: Json = False) -> None:
    """List the data sets and their folders."""
    from bench.cli import listing

    rows = listing.rows("datasets", data)
    if as_json:
        print(json.dumps(rows))
        return
    show(listing.table("data sets", rows))


@datasets_app.command("check")
def datasets_check(
    place: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="A folder with manifest.csv, or the name of a data set."
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Report all problems of a data set folder; the exit code is 2 if there are any."""
    from bench.data.find import find, installed
    from bench.data.folder import check

    folder = Path(place)
    folders = installed(data)
    if place in folders and not folder.is_dir():
        root = folders[place] or find(place, data).root
        if root is None:
            raise BenchError(f"{place} is built in: there is no folder to check.")
        folder = root
    with progress(quiet=as_json) as report:
        problems = check(folder, report)
    _print_problems(problems, folder, as_json)
    if problems:
        raise typer.Exit(2)


def _print_problems(problems: Sequence[str], folder: Path, as_json: bool) -> None:
    from bench.api.report import several

    if as_json:
        print(json.dumps({"folder": str(folder), "problems": [*problems]}))
        return
    for problem in problems:
        out.print(f"- {problem}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{several(len(problems), 'problem')} in {folder}", markup=False)


@datasets_app.command("make")
@options_of(MakeConfig)
def datasets_make(
    folder: Annotated[
        Path, typer.Argument(help="A folder with images/NAME.png and labels/NAME.png.")
    ],
    config: MakeConfig,
    as_json: Json = False,
) -> None:
    """Create a data set from images and labels: check them, and write manifest.csv.

    Labels are instance maps: one number per nucleus, 0 is the background. If there are problems,
    nothing is written, all problems are reported, and the exit code is 2.
    """
    from bench.data import create

    if not config.force:
        create.refuse_full(folder, config)
    with progress(quiet=as_json) as report:
        planned = create.plan(folder, config, report)
        if not planned.problems:
            create.write(planned, report)
    if planned.problems:
        _print_problems(planned.problems, folder, as_json)
        if not as_json:
            out.print("nothing was written")
        raise typer.Exit(2)
    _print_created(planned, as_json)


def _print_created(planned: Plan, as_json: bool) -> None:
    patients = len({row.patient for row in planned.rows})
    nuclei = sum(row.nuclei for row in planned.rows)
    root = str(planned.root)
    run = shlex.join(["bench", "run", "--dataset", root if os.sep in root else f"./{root}"])
    if as_json:
        summary = {
            "folder": root,
            "images": len(planned.rows),
            "patients": patients,
            "nuclei": nuclei,
            "splits": planned.splits,
            "notes": [*planned.notes],
            "next": run,
        }
        print(json.dumps(summary))
        return
    for note in planned.notes:
        out.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    splits = ", ".join(f"{count} {split}" for split, count in planned.splits.items())
    line = (
        f"{len(planned.rows)} images of {patients} patients ({splits}), {nuclei} nuclei in {root}"
    )
    out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(f"next: {run}", markup=False, highlight=False, soft_wrap=True)


@datasets_app.command("prepare")
def datasets_prepare(
    name: Annotated[str, typer.Argument(help="A name in `bench datasets list`.")],
    raw: Annotated[
        Path, typer.Option("--from", help="The folder of the unpacked official release.")
    ],
    to: Annotated[
        Path, typer.Option("--out", help="The folder of the data sets; NAME is created in it.")
    ],
    as_json: Json = False,
) -> None:
    """Turn an official release into a data set folder."""
    from bench import registry
    from bench.data import download

    with progress(quiet=as_json) as report:
        prepared = download.prepare(registry.get("datasets", name), raw, to / name, report)
    _print_prepared(prepared, to / name, as_json)


@datasets_app.command("download")
def datasets_download(
    name: Annotated[str, typer.Argument(help="A name in `bench datasets list`.")],
    to: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the data sets. Default: the user's cache."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download an openly hosted release, verify it, and prepare it."""
    from bench import registry
    from bench.data import download
    from bench.store.cache_dir import cache_root

    folder = (to or cache_root() / "data") / name
    if (folder / "manifest.csv").exists():
        raise BenchError(f"{folder} is a data set already. Choose another --out.")
    with progress(quiet=as_json) as report:
        dataset = registry.get("datasets", name)
        raw = download.download(dataset, cache_root() / "downloads" / name, progress=report)
        prepared = download.prepare(dataset, raw, folder, report)
    _print_prepared(prepared, folder, as_json)


def _print_prepared(prepared: Prepared, folder: Path, as_json: bool) -> None:
    if as_json:
        summary = {"folder": str(folder), "images": prepared.images, "notes": prepared.notes}
        print(json.dumps(summary))
        return
    for note in prepared.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"{prepared.images} images in {folder}", markup=False)
