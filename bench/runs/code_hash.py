"""Hash the source files of plug-ins: the part of a run's identity that follows users' edits.

The core's own code is represented by `bench.api.record.NUMERICS_VERSION` instead.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import nn

LIBRARIES = (
    *("torch", "torchvision", "timm", "open_clip", "diffusers", "peft", "transformers"),
    "dynamic_network_architectures",
)
PLUGIN_FOLDERS = ("backbones", "heads", "datasets", "protocols", "metrics", "leaderboards")


def sha256(functions: Iterable[Callable[..., object]], networks: Iterable[nn.Module]) -> str:
    """Hash the code of plug-ins: the files of functions and of the classes of networks.

    Imports are followed inside the package of a plug-in, relative and absolute ones, also those
    inside functions. Files of the core and of other packages are left out.

    Args:
        functions: `build`, `plan` and `count` of the plug-ins.
        networks: every class in them counts, so a backbone inside a backbone does too.

    Returns:
        16 hex digits.
    """
    files = {Path(inspect.getfile(_innermost(function))) for function in functions}
    files |= {file for network in networks for file in class_files(network)}
    contents = {path.read_bytes().replace(b"\r\n", b"\n") for path in with_imports(files)}
    digests = sorted(hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def class_files(network: nn.Module) -> set[Path]:
    """Return the files of a network's classes that belong to plug-ins."""
    modules = [sys.modules[type(part).__module__] for part in network.modules()]
    plugins = [module for module in modules if _is_plugin(module.__name__)]
    files = [getattr(module, "__file__", None) for module in plugins]  # none in a notebook
    return {Path(file) for file in files if file is not None}


def with_imports(files: Iterable[Path]) -> set[Path]:
    """Return files and those of the same package that they import, directly or indirectly."""
    reached: set[Path] = set()
    new = set(files)
    while new:
        reached |= new
        new = {imported for path in new for imported in _imported(path)} - reached
    return reached


def _imported(file: Path) -> Iterator[Path]:
    """Yield the files of the package of a file that it imports anywhere."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module or ''}.{a.name}" for a in node.names)]
            level = node.level
        elif isinstance(node, ast.Import):
            names, level = [alias.name for alias in node.names], 0
        else:
            continue
        for name in names:
            if path := _inside_package(file, name.strip("."), level):
                yield path


def _inside_package(file: Path, name: str, level: int) -> Path | None:
    """Find an imported module among the files of the importing file's package."""
    root, prefix = _package(file)
    if level:
        folder = file.parents[level - 1]
    elif prefix and name.startswith(f"{prefix}."):
        folder, name = root, name.removeprefix(f"{prefix}.")
    elif not prefix:
        folder = root
    else:
        return None
    path = folder / name.replace(".", "/") if name else folder
    if name and path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    package = path / "__init__.py"
    return package if package.is_file() else None


def _package(file: Path) -> tuple[Path, str]:
    """Return the top folder of the package of a file, and the prefix of its absolute imports.

    A built-in plug-in's package is its folder, such as `bench.heads`. The modules beside a file
    outside any package import each other without a prefix.
    """
    for parent in file.parents:
        if parent.name in PLUGIN_FOLDERS and (
            parent.parent.name == "bench" or (parent.parent / "bench" / "api").is_dir()
        ):
            return parent, f"bench.{parent.name}"
    root = file.parent
    if not (root / "__init__.py").is_file():
        return root, ""
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    return root, root.name


def _is_plugin(name: str) -> bool:
    """Return whether a module belongs to a plug-in, built in or third-party."""
    top, _, rest = name.partition(".")
    if top == "bench":
        return rest.partition(".")[0] in PLUGIN_FOLDERS
    return top not in LIBRARIES


def _innermost(function: Callable[..., object]) -> Callable[..., object]:
    """Look through functools.partial to the function that has a source file."""
    while isinstance(function, partial):
        function = function.func
    return inspect.unwrap(function)
