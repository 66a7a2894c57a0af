"""`bench init`: begin a plug-in of your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.console import Json, out

init_app = typer.Typer(help="Begin a plug-in of your own.", no_args_is_help=True)


@init_app.command("backbone")
def init_backbone(
    name: Annotated[str, typer.Argument(help="The name of its Python module, such as my_fm.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="The folder of its files. Default: bench-NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a small backbone that works, its test and its package; nothing is overwritten."""
    from bench.starting import plugin_name, start_backbone

    plugin = plugin_name(name)
    # Never the module's own name: beside such a folder Python takes it for the module.
    folder = to or Path(f"bench-{plugin}")
    written = start_backbone(name, folder)
    following = [
        f"pip install -e '{folder}[test]'",
        f"bench check {plugin}",
        f"bench run --backbone {plugin}",
        f"python -m pytest {folder}",
    ]
    if as_json:
        told = {"backbone": plugin, "files": [str(path) for path in written], "next": following}
        print(json.dumps(told))
        return
    lines = [f"written: {path}" for path in written] + ["next:", *(f"  {x}" for x in following)]
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@init_app.callback()
def _group() -> None:
    """Keep the word `backbone` a command of its own."""
