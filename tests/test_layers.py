"""The layers hold: read from the imports of every source file, and from a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PLUGIN_FOLDERS = {  # by import name; where the files lie
    "bench.backbones": "backbones",
    "bench.heads": "heads",
    "bench.datasets": "datasets",
    "bench.leaderboards": "leaderboards",
    "bench.protocols": "bench/protocols",
    "bench.metrics": "bench/metrics",
}
HEAVY = {"torch", "torchvision", "timm", "open_clip", "pandas", "seaborn", "matplotlib"}
LIGHT_CORE = ("__init__", "__main__", "api", "cli", "errors", "record", "registry")


def sources(folder: str) -> list[Path]:
    return sorted((CHECKOUT / folder).rglob("*.py"))


def folder_of(path: Path) -> str | None:
    """Name the plug-in folder that a file lies in, by its import name; None for the core."""
    place = path.relative_to(CHECKOUT).as_posix()
    return next((name for name, at in PLUGIN_FOLDERS.items() if place.startswith(f"{at}/")), None)


def package_of(path: Path) -> str:
    parts = path.parent.relative_to(CHECKOUT).parts
    return ".".join(parts if parts[0] == "bench" else ("bench", *parts))


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that is imported anywhere below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package_of(path).split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_at_the_top(path: Path) -> set[str]:
    """Give the libraries that importing the file imports itself, type checking aside."""
    found: set[str] = set()
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        found |= {name.partition(".")[0] for name in imports(path, statement)}
    return found


OURS = [path for folder in ("bench", *PLUGIN_FOLDERS.values()) for path in sources(folder)]
CORE = [path for path in sources("bench") if folder_of(path) is None]
PLUGINS = sorted({path for path in OURS if folder_of(path) is not None})
RECORDS = [  # what the registry imports in order to list the plug-ins
    path
    for at in PLUGIN_FOLDERS.values()
    for path in [*(CHECKOUT / at).glob("*.py"), *(CHECKOUT / at).glob("*/__init__.py")]
    if not path.name.startswith("_") or path.parent.name not in PLUGIN_FOLDERS.values()
]


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def test_the_reader_of_imports_reads_every_form(tmp_path: Path) -> None:
    path = CHECKOUT / "backbones" / "cmd" / "made_up.py"
    tree = ast.parse(
        "import a.b\nfrom . import c\nfrom .d import e\nfrom ..f import g\ndef h():\n import i"
    )
    relative = {"bench.backbones.cmd.c", "bench.backbones.cmd.d.e", "bench.backbones.f.g"}
    assert set(imports(path, tree)) == {"a.b", "i"} | relative
    assert is_plugin_module("bench.heads.builtin.build_linear")
    assert not is_plugin_module("bench.heads.build")
    assert not is_plugin_module("bench.registry.get")


def is_plugin_module(name: str) -> bool:
    """Tell `bench.metrics.dice.DICE` from what `bench/metrics/__init__.py` itself holds."""
    folder, module = ".".join(name.split(".")[:2]), name.split(".")[2:3]
    at = CHECKOUT / PLUGIN_FOLDERS.get(folder, "nowhere") / "".join(module)
    return bool(module) and (at.is_dir() or at.with_suffix(".py").is_file())


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_no_plugin_by_name(path: Path) -> None:
    found = imports(path, ast.parse(path.read_text()))
    assert not [name for name in found if is_plugin_module(name)]


@pytest.mark.parametrize("path", PLUGINS, ids=name_of)
def test_a_plugin_folder_imports_no_other(path: Path) -> None:
    others = tuple(f"{folder}." for folder in PLUGIN_FOLDERS if folder != folder_of(path))
    found = imports(path, ast.parse(path.read_text()))
    assert not [name for name in found if f"{name}.".startswith(others)]


@pytest.mark.parametrize("path", RECORDS, ids=name_of)
def test_a_file_with_records_is_quick_to_import(path: Path) -> None:
    assert not imports_at_the_top(path) & HEAVY


@pytest.mark.parametrize("module", LIGHT_CORE)
def test_a_light_module_of_the_core_is_quick_to_import(module: str) -> None:
    assert not imports_at_the_top(CHECKOUT / "bench" / f"{module}.py") & HEAVY


@pytest.mark.parametrize(
    "script",
    [
        "import bench.registry, bench.api",
        "import bench.cli",
        "from bench import registry; [registry.names(kind) for kind in registry.KINDS]",
    ],
)
def test_a_fresh_interpreter_loads_no_torch(script: str) -> None:
    heavy = f"import sys; sys.exit(' '.join(sorted({HEAVY!r} & set(sys.modules))) or None)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; {heavy}"], capture_output=True, text=True, cwd="/"
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_the_listed_packages_are_those_on_the_disk() -> None:
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted({package_of(path) for path in OURS})
    assert {k: v for k, v in settings["package-dir"].items() if k != "bench"} == {
        name: at for name, at in PLUGIN_FOLDERS.items() if not at.startswith("bench/")
    }
    assert not (CHECKOUT / "datasets" / "__init__.py").exists()  # Hugging Face owns that name


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_no_file_is_a_drawer_for_odds_and_ends(path: Path) -> None:
    assert path.stem.strip("_") not in {"utils", "util", "helpers", "common", "base", "misc"}
