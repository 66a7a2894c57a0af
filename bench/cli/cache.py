"""`bench cache`: the kept features of frozen extractors, listed, checked and cleared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import Json, err, out, progress, show
from bench.errors import BenchError

cache_app = typer.Typer(
    no_args_is_help=True, help="List, check and clear the kept features of frozen backbones."
)


@cache_app.command("list")
def list_entries(as_json: Json = False) -> None:
    """List what is kept, by backbone, data set and view."""
    from bench.features.cache import entries

    found = entries(_root())
    if as_json:
        print(json.dumps({"root": str(_root()), "entries": [_told(each) for each in found]}))
        return
    if not found:
        out.print(f"nothing is kept in {_root()}", markup=False, highlight=False)
        return
    from bench.render.terminal import fields_table

    rows = [
        {
            "backbone": each["backbone"],
            "data set": each["dataset"],
            "view": each["view"],
            "precision": each["precision"],
            "images": f"{each['kept']}/{each['wanted']}",
            "size": _size(int(str(each["bytes"]))),
            "state": "complete" if each["complete"] else "partial",
        }
        for each in map(_told, found)
    ]
    show(fields_table(str(_root()), rows))
    out.print(f"{_size(sum(each.size for each in found))} in all", markup=False, highlight=False)


@cache_app.command()
def verify(as_json: Json = False) -> None:
    """Read every file again and compare its checksum; exit code 1 where one is damaged.

    A file that no longer has its shape, or holds the maps of another image or backbone, is made
    again by the next run that needs it; one whose numbers changed no run notices: clear it.
    """
    from bench.features.cache import damaged

    with progress(quiet=as_json) as report:
        found = list(damaged(_root(), report))
    if as_json:
        print(json.dumps({"damaged": {str(path): reason for path, reason in found}}))
    else:
        out.print(f"{len(found)} damaged" if found else "ok", markup=False)
    for path, reason in found:
        err.print(f"{path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)


@cache_app.command()
def clear(
    backbone: Annotated[str | None, typer.Option(help="Of this backbone.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Of this data set.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All features.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove kept features; they are computed again when a run needs them."""
    from bench.features.cache import clear as clear_entries
    from bench.features.cache import entries

    if everything == (backbone is not None or dataset is not None):
        raise BenchError("name what goes: --backbone, --dataset or both, or --all.")
    chosen = [
        each
        for each in entries(_root())
        if backbone in (None, each.about.get("backbone")) and dataset in (None, each.dataset)
    ]
    if not chosen:
        raise BenchError(f"nothing of that is kept in {_root()}: see `bench cache list`.")
    if not yes:
        if as_json:
            raise BenchError("--json asks no questions: add --yes.")
        size = _size(sum(each.size for each in chosen))
        typer.confirm(f"Remove {len(chosen)} entries, {size}?", abort=True)
    freed = clear_entries(chosen)
    if as_json:
        print(json.dumps({"removed": len(chosen), "bytes": freed}))
    else:
        out.print(f"{len(chosen)} entries removed, {_size(freed)} free again", markup=False)


def _told(entry: object) -> dict[str, object]:
    from bench.features.cache import Entry

    assert isinstance(entry, Entry)
    about = {name: entry.about.get(name, "?") for name in ("backbone", "view", "precision")}
    counts = {"dataset": entry.dataset, "wanted": entry.wanted, "kept": entry.kept}
    size = {"bytes": entry.size, "complete": entry.complete, "folder": str(entry.folder)}
    return {**about, **counts, **size}


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _root() -> Path:
    from bench.store.cache_dir import cache_root

    return cache_root() / "features"
