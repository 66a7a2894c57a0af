"""Find plug-ins by name: ours by scanning their folder, anyone else's through entry points.

A plug-in is a module-level record (`bench.api.Backbone`, ...). Nothing is imported before a kind is
asked for; one broken plug-in never hides the others; two of one name are an error for that name
alone.
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
class Found:
    """A plug-in record and where it comes from."""

    record: Any
    origin: str
    module: str = ""

    @property
    def place(self) -> str:
        """The origin, and the file where that is known."""
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
    """All plug-ins of one kind, those that load and those that do not."""

    found: dict[str, list[Found]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A place that holds plug-ins; `load` imports it and gives the records of its kind."""

    name: str
    origin: str
    module: str
    load: Callable[[], list[Any]]


@cache
def catalogue(kind: str) -> Catalogue:
    """Load every plug-in of `kind`: our folder first, then the entry points of the same name."""
    shelf = Catalogue()
    for source in [*_our_modules(kind), *_entry_points(kind)]:
        try:
            with redirect_stdout(sys.stderr):  # stdout is for the output of the command
                records = source.load()
        except (Exception, SystemExit) as error:
            shelf.broken.append(Broken(kind, source.name, source.origin, _reason(error)))
            continue
        for record in records:
            shelf.found.setdefault(record.name, []).append(
                Found(record, source.origin, source.module)
            )
    return shelf


def get(kind: str, name: str) -> Any:
    """Give the record of that name.

    Raises:
        BenchError: no such plug-in (with suggestions), two of that name, or one that does not load.
    """
    shelf = catalogue(kind)
    prefix, colon, rest = name.partition(":")
    if colon and prefix + colon in shelf.found:
        return _only(kind, prefix + colon, shelf).expand(rest)
    if name in shelf.found and not name.endswith(":"):
        return _only(kind, name, shelf)
    for broken in shelf.broken:
        if broken.name == name:
            raise BenchError(
                f"the {kind[:-1]} {name!r} of {broken.origin} could not be loaded: "
                f"{broken.reason}. `bench doctor` lists every broken plug-in."
            )
    raise BenchError(_unknown(kind, name, shelf))


def names(kind: str) -> list[str]:
    """List the names of all plug-ins of `kind` that load, sorted."""
    return sorted(catalogue(kind).found)


def origin(kind: str, name: str) -> str:
    """Tell where the plug-in of that name comes from: a module of ours, or a distribution."""
    shelf = catalogue(kind)
    prefix, colon, _ = name.partition(":")
    return shelf.found[prefix + colon if colon else name][0].origin


def broken() -> list[Broken]:
    """List the plug-ins of every kind that could not be loaded."""
    return [entry for kind in KINDS for entry in catalogue(kind).broken]


def doubles() -> list[tuple[str, str, list[str]]]:
    """List the names that several plug-ins of a kind have: kind, name, and where each lies."""
    return [
        (kind, name, [entry.place for entry in entries])
        for kind in KINDS
        for name, entries in sorted(catalogue(kind).found.items())
        if len(entries) > 1
    ]


def _only(kind: str, name: str, shelf: Catalogue) -> Any:
    entries = shelf.found[name]
    if len(entries) > 1:
        origins = " and ".join(entry.place for entry in entries)
        raise BenchError(
            f"two {kind} are named {name!r}: {origins}. Uninstall or rename one of them."
        )
    return entries[0].record


def _unknown(kind: str, name: str, shelf: Catalogue) -> str:
    prefix, colon, _ = name.lower().partition(":")
    hint = did_you_mean(prefix + colon, shelf.found)
    lost = f" {len(shelf.broken)} could not be loaded: see `bench doctor`." if shelf.broken else ""
    near = name.replace("-", "_")
    here = {path.parent.name for path in Path().glob("*/pyproject.toml")}
    usual = f"bench-{name.replace('_', '-')}"  # as `bench init` names it
    own = next((each for each in (usual, near) if each in here), None)
    if kind == "backbones" and own is not None:
        hint = f" ./{own} holds a package: `pip install -e ./{own}` makes its plug-ins known."
    known = f"`bench list {kind}` shows all {len(shelf.found)}."
    return f"unknown {kind[:-1]} {name!r}.{hint} {known}{lost}"


def _reason(error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason += f". Is it installed? `pip install {error.name.partition('.')[0]}`"
    return reason


def _our_modules(kind: str) -> Iterator[Source]:
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
        raise TypeError(
            f"{path} holds no {_wanted(kind)}; the name of a file without one starts with _"
        )
    return records


def _record_of_entry_point(kind: str, point: EntryPoint) -> Any:
    record = point.load()
    if not isinstance(record, KINDS[kind]):
        raise TypeError(f"{point.value} is a {type(record).__name__}, not a {_wanted(kind)}")
    return record


def _wanted(kind: str) -> str:
    return " or ".join(each.__name__ for each in KINDS[kind])
