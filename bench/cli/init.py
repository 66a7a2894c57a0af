"""`bench init`: begin a plug-in of your own."""

from __future__ import annotations

import json
import keyword
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from bench import registry
from bench.cli.console import Json, out
from bench.errors import BenchError
from bench.store.files import write_bytes

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


def start_backbone(module: str, folder: Path) -> list[Path]:
    """Write a backbone, its test and its package; give the files.

    Args:
        module: the name of the Python module; the backbone is called so with - for _.

    Raises:
        BenchError: the name is no module's or is taken, or a file is there already.
    """
    _refuse_what_is_no_name(module)
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is a file; --out takes a folder.")
    written = {
        folder / f"{module}.py": "backbone.py",
        folder / f"test_{module}.py": "test_backbone.py",
        folder / "pyproject.toml": "pyproject.toml",
    }
    there = [str(path) for path in written if path.exists()]
    if there:
        raise BenchError(
            f"{', '.join(there)}: there already, and nothing is overwritten. Give another folder "
            "by --out, or another name."
        )
    _refuse_a_taken_name(module)
    words = {
        "module": module,
        "name": plugin_name(module),
        "cls": "".join(word.title() for word in module.split("_")) + "Extractor",
        "title": module.replace("_", " "),
    }
    for path, template in written.items():
        source = (files("bench") / "starter" / f"{template}.txt").read_text(encoding="utf-8")
        write_bytes(path, Template(source).substitute(words).encode())
    return list(written)


def plugin_name(module: str) -> str:
    """Name the plug-in of a module: my_fm holds my-fm."""
    return module.replace("_", "-")


def _refuse_what_is_no_name(module: str) -> None:
    plain = module.isascii() and module.isidentifier() and module == module.lower()
    if not plain or module.strip("_") != module or keyword.iskeyword(module):
        raise BenchError(
            f"{module!r} is no name for a module: take small letters, digits and _, a letter first "
            "and no _ at the ends, such as my_fm."
        )


def _refuse_a_taken_name(module: str) -> None:
    name = plugin_name(module)
    if name in registry.names("backbones"):
        origin = registry.origin("backbones", name)
        raise BenchError(f"the backbone {name!r} is there already, of {origin}: take another name.")
    found = find_spec(module)
    if found is not None and found.origin is not None:
        raise BenchError(
            f"a Python module {module!r} is installed already, and would be hidden or hide yours: "
            "take another name."
        )
