"""The `bench run` that a record or a request stands for, in words that a shell takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.api import PlanOptions
from bench.api.record import Record
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.experiment import Request

RECIPE = {"epochs", "lr", "batch_size", "weight_decay"}  # what of a recipe has an option
SPELT = {"fraction": "fractions"}  # where the option takes several
NAMED = {"timestep", "blocks", "condition"}  # options of a backbone that have one of their own


def of_record(record: Record, data: Path | None = None) -> str:
    """Write the command that makes a run again, FILE in the place of a file of weights.

    A shift, or another data set to score, is not in it: such runs are made by a series of runs.

    Args:
        data: the folder of the data set, or one that holds it.
    """
    facts, spec = record.facts, record.spec
    protocol, view = spec.protocol, spec.view
    backbone = spec.backbone.name
    own = data is not None and (data / "manifest.csv").is_file()
    words = ["--backbone", backbone, "--dataset", str(data if own else facts["dataset"])]
    words += [] if own or data is None else ["--data", str(data)]
    words += ["--protocol", protocol.name, *_head(record)]
    if facts.get("own_checkpoint"):
        words += ["--checkpoint", "FILE"]
    elif record.is_untrained_control:
        words += ["--weights", "random"]
    words += _options(_mapping(facts.get("asked_options")))
    always = {
        name: value
        for name, value in protocol.options.items()
        if name not in ("folds", "seed") or value
    }
    words += _pairs(always) + _pairs(_mapping(facts.get("asked_recipe")), RECIPE)
    if spec.ttt is not None:
        words += _ttt(asdict(spec.ttt))
    words += [] if view.kind == "whole" else ["--view", view.kind]
    words += ["--input-px", str(view.px)]
    words += [] if spec.precision == "fp32" else ["--precision", spec.precision]
    limit = spec.dataset.limit
    words += [] if limit is None else ["--limit", str(limit)]
    return shlex.join(["bench", "run", *words])


def of_request(request: Request) -> str:
    """Write the command of a request, without what is as usual."""
    words = ["--backbone", request.backbone, "--dataset", request.dataset]
    words += ["--protocol", request.protocol]
    words += ["--head", request.head] if request.head else []
    words += ["--checkpoint", str(request.checkpoint)] if request.checkpoint else []
    words += ["--weights", "random"] if request.random else []
    words += _options(request.options)
    words += _plan(request)
    words += _pairs(request.recipe, RECIPE)
    words += _ttt(asdict(request.ttt)) if request.ttt else []
    words += ["--input-px", str(request.input_px)] if request.input_px else []
    words += [] if request.device == "auto" else ["--device", request.device]
    words += ["--limit", str(request.limit)] if request.limit else []
    return shlex.join(["bench", "run", *words])


def _plan(request: Request) -> list[str]:
    """Write what the protocol reads, and what is unusual of the rest."""
    read = registry.get("protocols", request.protocol).options
    own, usual = asdict(request.plan), asdict(PlanOptions())
    return _pairs({n: value for n, value in own.items() if n in read or value != usual[n]})


def _head(record: Record) -> list[str]:
    """Name the head, unless the protocol prescribes it."""
    spec = record.spec
    try:
        prescribed = registry.get("protocols", spec.protocol.name).head
    except BenchError:  # the run was committed when it was still installed
        prescribed = None
    return [] if prescribed else ["--head", spec.head.name]


def _options(options: Mapping[str, Any]) -> list[str]:
    own = _pairs({name: value for name, value in options.items() if name in NAMED})
    others = [f"{name}={value}" for name, value in options.items() if name not in NAMED]
    return own + [word for each in others for word in ("--option", each)]


def _ttt(settings: Mapping[str, Any]) -> list[str]:
    """Write all settings of test-time training: their defaults may change."""
    return ["--ttt", *(w for n, v in settings.items() for w in ("--ttt-option", f"{n}={v}"))]


def _pairs(values: Mapping[str, Any], known: set[str] | None = None) -> list[str]:
    """Write values as options; those that have none are left out."""
    own = {
        SPELT.get(name, name).replace("_", "-"): value
        for name, value in values.items()
        if known is None or name in known
    }
    return [word for name, value in own.items() for word in (f"--{name}", str(value))]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
