"""Find plug-ins by name: built-in ones in their folders, third-party ones through entry points.

A plug-in is a module-level record (`bench.api.Backbone`, ...). The plug-ins of a kind are imported
on the first request for that kind. A broken plug-in does not hide the others, and a duplicate name
is an error for that name only.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from bench import api
from bench.errors import BenchError, did_you_mean

KINDS: dict[str, tuple[type, ...]] = {
    "backbones": (api.Backbone, api.BackboneFamily),
    "heads": (api.HeadPlugin,),
    "datasets": (api.Dataset,),
    "protocols": (api.Protocol, api.Series),
    "metrics": (api.Metric,),
    "leaderboards": (api.Leaderboard,),
}


@dataclass(frozen=True)
class LoadedPlugin:
    """A plug-in record and where it comes from."""

    record: Any
    origin: str
    module: str = ""

    @property
    def place(self) -> str:
        """The origin, and the file if it is known."""
        file = getattr(sys.modules.get(self.module), "__file__", None)
        return f"{self.origin} ({file})" if file else self.origin


@dataclass(frozen=True)
class Broken:
    """A plug-in that could not be loaded, and why."""

    kind: str
    name: str
    origin: str
    reason: str


@dataclass
class Catalogue:
    """The plug-ins of a kind, by name, and those that could not be loaded."""

    found: dict[str, list[LoadedPlugin]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A module with plug-ins; `load` imports it and returns its records."""

    name: str
    origin: str
    module: str
    load: Callable[[], list[Any]]


@cache
def catalogue(kind: str) -> Catalogue:
    """Load all plug-ins of a kind: the built-in ones, then the entry points."""
    plugins = Catalogue()
    for source in [*_built_in(kind), *_entry_points(kind)]:
        try:
            with redirect_stdout(sys.stderr):  # stdout is for the output of the command
                records = source.load()
        except (Exception, SystemExit) as error:
            plugins.broken.append(Broken(kind, source.name, source.origin, _reason(error)))
            continue
        for record in records:
            plugins.found.setdefault(record.name, []).append(
                LoadedPlugin(record, source.origin, source.module)
            )
    return plugins


def get(kind: str, name: str) -> Any:
    """Return the record of a plug-in.

    Raises:
        BenchError: the name is unknown (with suggestions) or duplicate, or the plug-in is broken.
    """
    plugins = catalogue(kind)
    prefix, colon, rest = name.partition(":")
    if colon and prefix + colon in plugins.found:
        return _only(kind, prefix + colon, plugins).expand(rest)
    if name in plugins.found and not name.endswith(":"):
        return _only(kind, name, plugins)
    for broken in plugins.broken:
        if broken.name == name:
            raise BenchError(
                f"the {kind[:-1]} {name!r} of {broken.origin} could not be loaded: "
                f"{broken.reason}. `bench doctor` lists every broken plug-in."
            )
    raise BenchError(_unknown(kind, name, plugins))


def names(kind: str) -> list[str]:
    """List the names of all plug-ins of a kind, sorted, without broken ones."""
    return sorted(catalogue(kind).found)


def origin(kind: str, name: str) -> str:
    """Return where a plug-in comes from: a built-in module, or a distribution."""
    plugins = catalogue(kind)
    prefix, colon, _ = name.partition(":")
    return plugins.found[prefix + colon if colon else name][0].origin


def broken() -> list[Broken]:
    """List the plug-ins of every kind that could not be loaded."""
    return [entry for kind in KINDS for entry in catalogue(kind).broken]


def doubles() -> list[tuple[str, str, list[str]]]:
    """List duplicate names: kind, name, and the places of the plug-ins."""
    return [
        (kind, name, [entry.place for entry in entries])
        for kind in KINDS
        for name, entries in sorted(catalogue(kind).found.items())
        if len(entries) > 1
    ]


def _only(kind: str, name: str, plugins: Catalogue) -> Any:
    entries = plugins.found[name]
    if len(entries) > 1:
        origins = " and ".join(entry.place for entry in entries)
        raise BenchError(
            f"two {kind} are named {name!r}: {origins}. Uninstall or rename one of them."
        )
    return entries[0].record


def _unknown(kind: str, name: str, plugins: Catalogue) -> str:
    prefix, colon, _ = name.lower().partition(":")
    hint = did_you_mean(prefix + colon, plugins.found)
    packages = {path.parent.name for path in Path().glob("*/pyproject.toml")}
    usual = f"bench-{name.replace('_', '-')}"  # the name that `bench init` uses
    local = [package for package in (usual, name.replace("-", "_")) if package in packages]
    if kind == "backbones" and local:
        hint = f" `pip install -e ./{local[0]}` installs the plug-ins of the package ./{local[0]}."
    available = f"`bench list {kind}` shows all {len(plugins.found)}."
    n_broken = len(plugins.broken)
    lost = f" {n_broken} could not be loaded: see `bench doctor`." if n_broken else ""
    return f"unknown {kind[:-1]} {name!r}.{hint} {available}{lost}"


def _reason(error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason += f". Is it installed? `pip install {error.name.partition('.')[0]}`"
    return reason


def _built_in(kind: str) -> Iterator[Source]:
    package = importlib.import_module(f"bench.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            path = f"bench.{kind}.{module.name}"
            yield Source(module.name, path, path, lambda path=path: _records_of_module(kind, path))


def _entry_points(kind: str) -> Iterator[Source]:
    for point in sorted(entry_points(group=f"bench.{kind}"), key=lambda point: point.name):
        owner = point.dist.name if point.dist else point.value
        load = partial(_record_of_entry_point, kind, point)
        yield Source(point.name, owner, point.module, lambda load=load: [load()])


def _records_of_module(kind: str, path: str) -> list[Any]:
    members = vars(importlib.import_module(path)).values()
    records = [member for member in members if isinstance(member, KINDS[kind])]
    if not records:
        raise TypeError(f"{path} contains no {_expected(kind)}; files without one are named _*.py")
    return records


def _record_of_entry_point(kind: str, point: EntryPoint) -> Any:
    record = point.load()
    if not isinstance(record, KINDS[kind]):
        raise TypeError(f"{point.value} is a {type(record).__name__}, not a {_expected(kind)}")
    return record


def _expected(kind: str) -> str:
    return " or ".join(record.__name__ for record in KINDS[kind])
