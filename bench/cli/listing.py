"""What `bench list` tells of each plug-in, as plain rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import registry
from bench.api import Backbone, Dataset
from bench.data.find import installed
from bench.models import hub

Fields = Mapping[str, object]


def rows(kind: str, data_dir: Path | None) -> list[Fields]:
    """List the plug-ins of a kind, sorted by name.

    Args:
        data_dir: where data sets are looked for, besides the usual places.
    """
    homes = installed(data_dir) if kind == "datasets" else {}
    shelf = registry.catalogue(kind).found
    return [
        {
            "name": name,
            "title": found.record.title,
            **_own(found.record, homes),
            "origin": found.origin,
        }
        for name, entries in sorted(shelf.items())
        for found in entries
    ]


def brief(row: Fields) -> Fields:
    """Keep of a backbone what a first choice needs; of a family of them there is the name alone."""
    gated = row.get("gated")
    access = {None: "", True: "gated", False: "open"}[gated if isinstance(gated, bool) else None]
    kept = {name: row.get(name, "") for name in ("name", "parameters", "license")}
    return {**kept, "access": access, "cached": row.get("cached", ""), "origin": row["origin"]}


def _own(record: object, homes: Mapping[str, Path | None]) -> Fields:
    if isinstance(record, Backbone):
        return {
            "parameters": record.params,
            "patch": record.patch,
            "mpp": record.mpp,
            "license": record.license,
            "gated": record.gated,
            "cached": hub.holder(record),
            "trained_on": list(record.trained_on),
        }
    if isinstance(record, Dataset):
        home = homes.get(record.name)
        found = "built in" if record.generate else home and str(home)
        return {"license": record.license, "sources": list(record.sources), "found": found}
    return {}
