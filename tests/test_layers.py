"""Imports go from upper layers to lower ones, and listing plug-ins loads no heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
LAYERS = (  # a module imports from the layers above its own and from its own folder
    {"errors"},
    {"api"},
    {"store", "stats", "metrics", "registry"},
    {"features", "heads", "data"},
    {"models"},
    {"board", "training", "datasets"},
    {"runs"},
    {"testing", "leaderboards"},
    {"render"},
    {"pretrain"},
    {"backbones", "protocols"},
    {"figures", "paper"},
    {"report"},
    {"library"},
    {"cli"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "torchvision", "timm", "open_clip", "pandas", "seaborn", "matplotlib"}


def files() -> Iterator[tuple[str, Path]]:
    """Yield each source file with the folder or top-level module of `bench` that it belongs to."""
    for folder in ("bench", "backbones", "heads", "datasets", "leaderboards"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            yield parts[1] if parts[0] == "bench" else parts[0], path


def imported(path: Path) -> Iterator[str]:
    """Yield the parts of `bench` that a file imports anywhere, for typing too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("bench."))


def test_imports_follow_the_layers() -> None:
    upward = [
        f"{path.relative_to(CHECKOUT)} imports bench.{name}"
        for own, path in files()
        if own in LAYER
        for name in dict.fromkeys(imported(path))
        if name in LAYER and name != own and LAYER[name] >= LAYER[own]
    ]
    assert not upward


def test_only_the_command_line_imports_typer() -> None:
    users = {own for own, path in files() if "typer" in path.read_text() and own != "cli"}
    assert not users


@pytest.mark.parametrize(
    "script",
    [
        "import bench.registry, bench.api",
        "import bench.cli.main, bench.cli.show",
        "from bench import registry; [registry.names(kind) for kind in registry.KINDS]",
    ],
)
def test_a_fresh_interpreter_loads_no_heavy_library(script: str) -> None:
    heavy = f"import sys; sys.exit(' '.join(sorted({HEAVY!r} & set(sys.modules))) or None)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; {heavy}"], capture_output=True, text=True, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
