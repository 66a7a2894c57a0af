"""Which source code makes the numbers of a run, as one hash: part of the run's identity."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from torch import nn

CORE = Path(__file__).parent
MODULES = (
    *("adapt", "augment", "chance", "checkpoints", "colour", "condition", "decode", "features"),
    *("interface", "loss", "optimise", "parts", "predict", "runner", "shifts", "train", "trials"),
    *("pretrain/corruption", "pretrain/objective", "views", "weights"),
)

LIBRARIES = (
    *("torch", "torchvision", "timm", "open_clip", "diffusers", "peft", "transformers"),
    "dynamic_network_architectures",
)


def sha256(functions: Iterable[Callable[..., object]], modules: Iterable[nn.Module]) -> str:
    """Hash the core's numeric modules, the metrics, and the code of these functions and networks.

    Args:
        functions: the plug-ins' `build` and `plan`.
        modules: networks; every class in them that is not a library's counts, so the code of a
            backbone inside a backbone does too.
    """
    files = {CORE / f"{name}.py" for name in MODULES} | set((CORE / "metrics").glob("*.py"))
    own = {Path(inspect.getfile(_innermost(function))) for function in functions}
    own |= {file for module in modules for file in _classes(module)}
    for file in own:
        files |= _with_relatives(file)
    contents = {file.read_bytes().replace(b"\r\n", b"\n") for file in files}
    digests = sorted(hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _classes(module: nn.Module) -> set[Path]:
    """Give the files of the classes of a network, without those of installed libraries."""
    names = {type(part).__module__ for part in module.modules()}
    own = [sys.modules[name] for name in names if name.partition(".")[0] not in LIBRARIES]
    return {Path(each.__file__) for each in own if each.__file__}


def _with_relatives(file: Path) -> set[Path]:
    """Give a file and those beside it that it imports relatively, and so on."""
    found, new = set(), {file}
    while new:
        found |= new
        new = {each for known in new for each in _imported_beside(known)} - found
    return found


def _imported_beside(file: Path) -> set[Path]:
    nodes = ast.walk(ast.parse(file.read_bytes()))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
    places = [file.parent / f"{name.replace('.', '/')}.py" for name in names if name]
    return {place for place in places if place.is_file()}


def _innermost(function: Callable[..., object]) -> Callable[..., object]:
    """Look through functools.partial to the function that has a source file."""
    while isinstance(function, partial):
        function = function.func
    return inspect.unwrap(function)
