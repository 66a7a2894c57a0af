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
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.data.create import Plan
    from bench.data.download import Prepared

datasets_app = typer.Typer(
    no_args_is_help=True, help="List, check, make, prepare and download data sets."
)


@datasets_app.command("list")
def datasets_list(data: Data = None, as_json: Json = False) -> None:
    """List the data sets, and where they were found."""
    from bench.cli import listing

    rows = listing.rows("datasets", data)
    if as_json:
        print(json.dumps(rows))
        return
    show(listing.table("data sets", rows))


@datasets_app.command("check")
def datasets_check(
    place: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder with manifest.csv, or a set's name.")
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Find every problem of a data set folder; exit code 2 where there is one."""
    from bench.data.find import find, installed
    from bench.data.folder import check

    folder = Path(place)
    named = installed(data)
    if place in named and not folder.is_dir():
        root = named[place] or find(place, data).root
        if root is None:
            raise BenchError(f"{place} is built in: there is no folder to check.")
        folder = root
    with progress(quiet=as_json) as report:
        problems = check(folder, report)
    _tell_problems(problems, folder, as_json)
    if problems:
        raise typer.Exit(2)


def _tell_problems(problems: Sequence[str], folder: Path, as_json: bool) -> None:
    from bench.api.report import several

    if as_json:
        print(json.dumps({"folder": str(folder), "problems": [*problems]}))
        return
    for problem in problems:
        out.print(f"- {problem}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{several(len(problems), 'problem')} in {folder}", markup=False)


@datasets_app.command("make")
def datasets_make(
    folder: Annotated[
        Path, typer.Argument(help="Holds images/NAME.png and labels/NAME.png, a pair an image.")
    ],
    table: Annotated[
        Path | None,
        typer.Option(help="A CSV file: id, patient, and maybe split, organ, magnification."),
    ] = None,
    binary: Annotated[
        bool,
        typer.Option("--binary", help="Labels are masks: each connected piece is a nucleus."),
    ] = False,
    organ: Annotated[str | None, typer.Option(help="The organ of every image.")] = None,
    magnification: Annotated[
        str | None, typer.Option(help="Of every image: 20x, 40x or unknown (the default).")
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(help="The share of patients drawn for the test split. Default: 0.3."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the drawn split. Default: 0.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Make a copy here. Default: FOLDER itself.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a manifest that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a data set of your own images and labels: check them, and write manifest.csv.

    Labels are instance maps: a number a nucleus, 0 is background. Nothing is written where
    something is wrong; all problems are told at once, with exit code 2.
    """
    from bench.data import create
    from bench.data.create import FolderInfo

    if not force:
        create.refuse_full(folder, to, binary=binary)
    answers = FolderInfo(table, organ, magnification, test_share, seed)
    with progress(quiet=as_json) as report:
        planned = create.plan(folder, answers, binary=binary, out=to, progress=report)
        if not planned.problems:
            create.write(planned, report)
    if planned.problems:
        _tell_problems(planned.problems, folder, as_json)
        if not as_json:
            out.print("nothing was written")
        raise typer.Exit(2)
    _tell_made(planned, as_json)


def _tell_made(planned: Plan, as_json: bool) -> None:
    patients = len({row.patient for row in planned.rows})
    nuclei = sum(row.nuclei for row in planned.rows)
    place = str(planned.root)
    run = shlex.join(["bench", "run", "--dataset", place if os.sep in place else f"./{place}"])
    if as_json:
        told = {
            "folder": place,
            "images": len(planned.rows),
            "patients": patients,
            "nuclei": nuclei,
            "splits": planned.splits,
            "notes": [*planned.notes],
            "next": run,
        }
        print(json.dumps(told))
        return
    for each in planned.notes:
        out.print(f"note: {each}", markup=False, highlight=False, soft_wrap=True)
    splits = ", ".join(f"{count} {split}" for split, count in planned.splits.items())
    line = (
        f"{len(planned.rows)} images of {patients} patients ({splits}), {nuclei} nuclei in {place}"
    )
    out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(f"next: {run}", markup=False, highlight=False, soft_wrap=True)


@datasets_app.command("prepare")
def datasets_prepare(
    name: Annotated[str, typer.Argument(help="The data set, as `bench datasets list` names it.")],
    raw: Annotated[Path, typer.Option("--from", help="The unpacked official release.")],
    to: Annotated[Path, typer.Option("--out", help="The data directory; NAME is made in it.")],
    as_json: Json = False,
) -> None:
    """Turn an official release into a data set folder."""
    from bench import registry
    from bench.data import download

    with progress(quiet=as_json) as report:
        prepared = download.prepare(registry.get("datasets", name), raw, to / name, report)
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
    from bench import registry
    from bench.data import download
    from bench.store.cache_dir import cache_root

    home = to or cache_root() / "data"
    if (home / name / "manifest.csv").exists():
        raise BenchError(f"{home / name} holds a data set already; choose another --out.")
    with progress(quiet=as_json) as report:
        dataset = registry.get("datasets", name)
        raw = download.download(dataset, cache_root() / "downloads" / name, progress=report)
        prepared = download.prepare(dataset, raw, home / name, report)
    _tell_prepared(prepared, home / name, as_json)


def _tell_prepared(prepared: Prepared, folder: Path, as_json: bool) -> None:
    if as_json:
        told = {"folder": str(folder), "images": prepared.images, "notes": prepared.notes}
        print(json.dumps(told))
        return
    for note in prepared.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"{prepared.images} images in {folder}", markup=False)
