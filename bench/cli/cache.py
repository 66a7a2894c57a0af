"""`bench cache`: list, check and clear the cached feature maps of frozen backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import Json, err, out, progress, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.features.cache import Entry

cache_app = typer.Typer(
    no_args_is_help=True, help="List, check and clear the cached features of frozen backbones."
)


@cache_app.command("list")
def list_entries(as_json: Json = False) -> None:
    """List the cached features by backbone, data set and view."""
    from bench.features.cache import entries

    listed = entries(_root())
    if as_json:
        rows = [_fields(entry) for entry in listed]
        print(json.dumps({"root": str(_root()), "entries": rows}))
        return
    if not listed:
        out.print(f"{_root()} is empty", markup=False, highlight=False)
        return
    from bench.render.terminal import fields_table

    rows = [
        {
            "backbone": str(entry.about.get("backbone", "?")),
            "data set": entry.dataset,
            "view": str(entry.about.get("view", "?")),
            "precision": str(entry.about.get("precision", "?")),
            "images": f"{entry.cached}/{entry.requested}",
            "size": _size(entry.size),
            "state": "complete" if entry.complete else "partial",
        }
        for entry in listed
    ]
    show(fields_table(str(_root()), rows))
    total = _size(sum(entry.size for entry in listed))
    out.print(f"{total} in total", markup=False, highlight=False)


@cache_app.command()
def verify(as_json: Json = False) -> None:
    """Check the size and the owner of every file; exit code 1 if one is damaged.

    Damaged files are computed again by the next run that needs them.
    """
    from bench.features.cache import check

    with progress(quiet=as_json) as report:
        problems = list(check(_root(), report))
    if as_json:
        print(json.dumps({"damaged": {str(each.path): each.problem for each in problems}}))
    else:
        out.print(f"{len(problems)} damaged" if problems else "ok", markup=False)
    for problem in problems:
        line = f"{problem.path}: {problem.problem}"
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


@cache_app.command()
def clear(
    backbone: Annotated[
        str | None, typer.Option(help="Only the features of this backbone.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only the features of this data set.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all features.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove cached features; they are computed again when a run needs them."""
    from bench.features.cache import clear as clear_entries
    from bench.features.cache import entries

    if everything == (backbone is not None or dataset is not None):
        raise BenchError("select what to remove: --backbone, --dataset or both, or --all.")
    chosen = [
        entry
        for entry in entries(_root())
        if backbone in (None, entry.about.get("backbone")) and dataset in (None, entry.dataset)
    ]
    if not chosen:
        raise BenchError(f"{_root()} has no matching features; see `bench cache list`.")
    if not yes:
        if as_json:
            raise BenchError("--json does not ask for confirmation. Add --yes.")
        size = _size(sum(entry.size for entry in chosen))
        typer.confirm(f"Remove {len(chosen)} entries, {size}?", abort=True)
    freed = clear_entries(chosen)
    if as_json:
        print(json.dumps({"removed": len(chosen), "bytes": freed}))
    else:
        out.print(f"{len(chosen)} entries removed, {_size(freed)} freed", markup=False)


def _fields(entry: Entry) -> dict[str, object]:
    about = {name: entry.about.get(name, "?") for name in ("backbone", "view", "precision")}
    counts = {"dataset": entry.dataset, "requested": entry.requested, "cached": entry.cached}
    size = {"bytes": entry.size, "complete": entry.complete, "folder": str(entry.folder)}
    return {**about, **counts, **size}


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _root() -> Path:
    from bench.store.cache_dir import cache_root

    return cache_root() / "features"
