"""`bench datasets`: list, check, make, prepare and download data sets."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api.data import FolderInfo
from bench.cli.console import Data, Json, out, progress, show
from bench.cli.options import options_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.data.create import Plan
    from bench.data.download import Prepared

FEWEST_PATIENTS = 10  # in a test split; with fewer, models can hardly be ranked
FOLDS = 5

Name = Annotated[str, typer.Argument(help="The name of the data set; see `bench datasets list`.")]

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
        str, typer.Argument(metavar="FOLDER", help="A folder with manifest.csv, or a name.")
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List all problems of a data set folder; exit code 2 if there is one."""
    from bench.data.find import find, installed
    from bench.data.folder import examine

    folder, roots = Path(place), installed(data)
    if place in roots and not folder.is_dir():
        root = roots[place] or find(place, data).root
        if root is None:
            raise BenchError(f"{place} is built in and has no folder to check.")
        folder = root
    with progress(quiet=as_json) as report:
        findings = examine(folder, report)
    _print_problems(findings.problems, findings.warnings, folder, as_json)
    if findings.problems:
        raise typer.Exit(2)


def _print_problems(
    problems: Sequence[str], warnings: Sequence[str], folder: Path, as_json: bool
) -> None:
    from bench.api.report import several

    if as_json:
        body = {"folder": str(folder), "problems": [*problems], "warnings": [*warnings]}
        print(json.dumps(body))
        return
    _print_lines(f"warning: {warning}" for warning in warnings)
    _print_lines(f"- {problem}" for problem in problems)
    count = several(len(problems), "problem")
    if warnings:
        count += f" and {several(len(warnings), 'warning')}"
    _print_lines([f"{count} in {folder}"])


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@datasets_app.command("make")
@options_of(FolderInfo, "info")
def datasets_make(
    folder: Annotated[
        Path, typer.Argument(help="A folder with pairs of images/NAME.png and labels/NAME.png.")
    ],
    info: FolderInfo,
    binary: Annotated[
        bool,
        typer.Option("--binary", help="Labels are masks: each connected component is a nucleus."),
    ] = False,
    accept_labels: Annotated[
        bool,
        typer.Option(
            "--accept-labels",
            help="Accept labels that are no instance maps; the manifest and all runs are marked.",
        ),
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write a copy here. Default: FOLDER itself.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Make a data set of your own images and labels: check them, and write manifest.csv.

    Labels are instance maps: one number per nucleus, 0 is background. If there are problems,
    nothing is written, all of them are listed, and the exit code is 2.
    """
    from bench.data import create

    if not force:
        create.refuse_full(folder, to, binary=binary)
    with progress(quiet=as_json) as report:
        plan = create.plan(
            folder, info, binary=binary, accept_labels=accept_labels, out=to, progress=report
        )
        if not plan.problems:
            create.write(plan, report)
    if plan.problems:
        _print_problems(plan.problems, plan.warnings, folder, as_json)
        if not as_json:
            out.print("nothing was written")
        raise typer.Exit(2)
    _print_plan(plan, as_json)


def _print_plan(plan: Plan, as_json: bool) -> None:
    patients = len({row.patient for row in plan.rows})
    nuclei = sum(row.nuclei for row in plan.rows)
    root = str(plan.root)
    run = shlex.join(
        ["bench", "run", "--dataset", root if os.sep in root else f"./{root}", *_folds(plan)]
    )
    if as_json:
        body = {
            "folder": root,
            "images": len(plan.rows),
            "patients": patients,
            "nuclei": nuclei,
            "splits": plan.splits,
            "notes": [*plan.notes],
            "warnings": [*plan.warnings],
            "next": run,
        }
        print(json.dumps(body))
        return
    splits = ", ".join(f"{count} {split}" for split, count in plan.splits.items())
    lines = [
        *(f"note: {note}" for note in plan.notes),
        *(f"warning: {warning}" for warning in plan.warnings),
        f"{len(plan.rows)} images of {patients} patients ({splits}), {nuclei} nuclei in {root}",
        f"next: {run}",
    ]
    _print_lines(lines)


def _folds(plan: Plan) -> list[str]:
    """Return `--folds K` if the test split has too few patients to rank models, or none."""
    patients = {row.patient for row in plan.rows}
    test = {row.patient for row in plan.rows if row.split == "test"}
    if len(patients) < 2 or (len(test) >= FEWEST_PATIENTS and "train" in plan.splits):
        return []
    return ["--folds", str(min(FOLDS, len(patients)))]


@datasets_app.command("prepare")
def datasets_prepare(
    name: Name,
    raw: Annotated[Path, typer.Option("--from", help="The unpacked official release.")],
    to: Annotated[Path, typer.Option("--out", help="The data directory; NAME is created in it.")],
    as_json: Json = False,
) -> None:
    """Convert an official release to a data set folder."""
    from bench import registry
    from bench.data import download

    with progress(quiet=as_json) as report:
        prepared = download.prepare(registry.get("datasets", name), raw, to / name, report)
    _print_prepared(prepared, to / name, as_json)


@datasets_app.command("download")
def datasets_download(
    name: Name,
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
        raise BenchError(f"{home / name} already contains a data set. Choose another --out.")
    with progress(quiet=as_json) as report:
        dataset = registry.get("datasets", name)
        raw = download.download(dataset, cache_root() / "downloads" / name, progress=report)
        prepared = download.prepare(dataset, raw, home / name, report)
    _print_prepared(prepared, home / name, as_json)


def _print_prepared(prepared: Prepared, folder: Path, as_json: bool) -> None:
    if as_json:
        body = {
            "folder": str(folder),
            "images": prepared.images,
            "notes": prepared.notes,
            "warnings": prepared.warnings,
        }
        print(json.dumps(body))
        return
    _print_lines(f"note: {note}" for note in prepared.notes)
    _print_lines(f"warning: {warning}" for warning in prepared.warnings)
    _print_lines([f"{prepared.images} images in {folder}"])
