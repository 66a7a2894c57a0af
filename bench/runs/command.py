"""Write the config of a run as a `bench run` command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.api.options import options
from bench.api.record import Record
from bench.api.run_config import CMD_OPTIONS, RECIPE_OPTIONS, RunConfig
from bench.errors import BenchError

ALWAYS = ("backbone", "dataset", "protocol")  # written even if they have their default


def to_command(config: RunConfig, data: Path | None = None) -> str:
    """Return the command of a run, with the options that differ from their defaults.

    Args:
        data: the folder of the data sets, for `--data`.
    """
    default, words = RunConfig(), ["bench", "run"]
    for name, option in options(RunConfig).items():
        value = getattr(config, name)
        if value == getattr(default, name) and name not in ALWAYS:
            continue
        if option.type is dict:
            words += [word for pair in value.items() for word in (option.flag, "=".join(pair))]
        else:
            words += [option.flag] if option.type is bool else [option.flag, str(value)]
    words += [] if data is None else ["--data", str(data)]
    return shlex.join(words)


def command_of(record: Record, data: Path | None = None) -> str:
    """Return the command that repeats the run of a record.

    A weights file appears as FILE. The command of a run that a series scores under a shift or on
    another data set is that of the run without it.

    Args:
        data: the folder of the data set, or the folder of the data sets.
    """
    config = config_of(record)
    if data is not None and (data / "manifest.csv").is_file():
        return to_command(replace(config, dataset=str(data)))
    return to_command(config, data)


def config_of(record: Record) -> RunConfig:
    """Return the config of a record, with its settings written out, since defaults may change."""
    facts, spec, backbone = record.facts, record.spec, record.spec.backbone.name
    options_read, adaptation = spec.protocol.options, spec.ttt
    chosen: Mapping[str, Any] = _mapping(facts.get("asked_options"))
    changes: dict[str, Any] = {
        name: value
        for name, value in _mapping(facts.get("asked_recipe")).items()
        if name in RECIPE_OPTIONS
    }
    types = {name: option.type for name, option in options(RunConfig).items()}
    changes |= {name: types[name](chosen[name]) for name in CMD_OPTIONS if name in chosen}
    changes |= {
        "shots_unit" if name == "by" else name: value for name, value in options_read.items()
    }
    if facts.get("own_checkpoint"):
        changes["checkpoint"] = Path("FILE")
    elif spec.backbone.weights.startswith("random:") and spec.backbone.weights != "random:0":
        backbone += f"@{spec.backbone.weights}"
    elif record.is_untrained_control:
        changes["weights"] = "random"
    if adaptation is not None:
        settings = asdict(adaptation).items()
        changes |= {"ttt": True, "ttt_option": {name: str(value) for name, value in settings}}
    return RunConfig(
        backbone=backbone,
        dataset=str(facts["dataset"]),
        protocol=spec.protocol.name,
        head=_head(record),
        recipe="paper" if spec.recipe.name == "paper" else None,
        view=spec.view.kind,
        input_px=spec.view.px,
        precision=spec.precision,
        limit=spec.dataset.limit,
        option={name: text for name, text in chosen.items() if name not in CMD_OPTIONS},
        **changes,
    )


def _head(record: Record) -> str | None:
    """Return the head, or None if the protocol prescribes it."""
    try:
        prescribed = registry.get("protocols", record.spec.protocol.name).head
    except BenchError:  # the protocol's package is no longer installed
        prescribed = None
    return None if prescribed else record.spec.head.name


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
