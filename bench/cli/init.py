"""`bench init`: start a new plug-in from a template."""

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

init_app = typer.Typer(help="Start a new plug-in from a template.", no_args_is_help=True)


@init_app.command("backbone")
def init_backbone(
    name: Annotated[str, typer.Argument(help="Name of the Python module, such as my_fm.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="Output folder. Default: bench-NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a small working backbone, its test and its package; existing files are not replaced."""
    plugin = plugin_name(name)
    # A folder with the name of the module would be imported in its place.
    folder = to or Path(f"bench-{plugin}")
    written = start_backbone(name, folder)
    commands = [
        f"pip install -e '{folder}[test]'",
        f"bench check {plugin}",
        f"bench run --backbone {plugin}",
        f"python -m pytest {folder}",
    ]
    if as_json:
        files = [str(path) for path in written]
        print(json.dumps({"backbone": plugin, "files": files, "next": commands}))
        return
    lines = [f"written: {path}" for path in written]
    for line in [*lines, "next:", *(f"  {words}" for words in commands)]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@init_app.callback()
def _group() -> None:
    """Make `backbone` a subcommand, although it is the only command."""


def start_backbone(module: str, folder: Path) -> list[Path]:
    """Write a backbone, its test and its package, and return the files.

    Args:
        module: name of the Python module; the name of the backbone has "-" instead of "_".
        folder: output folder.

    Raises:
        BenchError: the name is invalid or taken, or a file exists.
    """
    _check_module_name(module)
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is a file; --out takes a folder.")
    written = {
        folder / f"{module}.py": "backbone.py",
        folder / f"test_{module}.py": "test_backbone.py",
        folder / "pyproject.toml": "pyproject.toml",
    }
    existing = [str(path) for path in written if path.exists()]
    if existing:
        raise BenchError(
            f"{', '.join(existing)} exist already and are not overwritten. Use another folder "
            "(--out) or another name."
        )
    _check_name_is_free(module)
    names = {
        "module": module,
        "name": plugin_name(module),
        "cls": "".join(word.title() for word in module.split("_")) + "Extractor",
        "title": module.replace("_", " "),
    }
    for path, template in written.items():
        source = (files("bench") / "starter" / f"{template}.txt").read_text(encoding="utf-8")
        write_bytes(path, Template(source).substitute(names).encode())
    return list(written)


def plugin_name(module: str) -> str:
    """Return the name of the plug-in of a module: "my-fm" for my_fm."""
    return module.replace("_", "-")


def _check_module_name(module: str) -> None:
    plain = module.isascii() and module.isidentifier() and module == module.lower()
    if not plain or module.strip("_") != module or keyword.iskeyword(module):
        raise BenchError(
            f"{module!r} is not a valid module name: use lower-case letters, digits and _, with a "
            "letter first and no _ at either end, such as my_fm."
        )


def _check_name_is_free(module: str) -> None:
    name = plugin_name(module)
    if name in registry.names("backbones"):
        origin = registry.origin("backbones", name)
        raise BenchError(f"a backbone {name!r} of {origin} exists already: use another name.")
    spec = find_spec(module)
    if spec is not None and spec.origin is not None:
        raise BenchError(
            f"a Python module {module!r} is installed already, and one would hide the other: use "
            "another name."
        )
