"""The rows of `bench list`, one per plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import registry
from bench.api import Backbone, Dataset, Table
from bench.data.find import installed
from bench.models import hub

Fields = Mapping[str, object]
ACCESS = {None: "", True: "gated", False: "open"}
SPARE = ("patch", "mpp", "trained_on", "sources", "origin", "license")


def rows(kind: str, data_dir: Path | None) -> list[Fields]:
    """Return the plug-ins of a kind as JSON objects, sorted by name.

    Args:
        data_dir: where data sets are searched besides the default folders.
    """
    folders = installed(data_dir) if kind == "datasets" else {}
    return [
        {
            "name": name,
            "title": plugin.record.title,
            **_fields(plugin.record, folders),
            "origin": plugin.origin,
        }
        for name, plugins in sorted(registry.catalogue(kind).found.items())
        for plugin in plugins
    ]


def brief(row: Fields) -> Fields:
    """Return the fields of a backbone that a first choice needs; a family has only a name."""
    gated = row.get("gated")
    return {
        **{name: row.get(name, "") for name in ("name", "parameters", "license")},
        "access": ACCESS[gated if isinstance(gated, bool) else None],
        "cached": row.get("cached", ""),
        "origin": row["origin"],
    }


def table(title: str, rows: Sequence[Fields]) -> Table:
    """Build the table of plug-ins; the origin is shown if any plug-in is third-party."""
    from bench.render.terminal import fields_table

    if all(str(row["origin"]).startswith("bench.") for row in rows):
        rows = [{name: row[name] for name in row if name != "origin"} for row in rows]
    return fields_table(title, rows, spare=SPARE)


def _fields(record: object, folders: Mapping[str, Path | None]) -> Fields:
    if isinstance(record, Backbone):
        return {
            "parameters": record.params,
            "patch": record.patch,
            "mpp": record.mpp,
            "license": record.license,
            "gated": record.gated,
            "cached": hub.location(record),
            "trained_on": list(record.trained_on),
        }
    if isinstance(record, Dataset):
        folder = folders.get(record.name)
        location = "built in" if record.generate else folder and str(folder)
        return {"license": record.license, "sources": list(record.sources), "location": location}
    return {}
