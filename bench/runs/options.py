"""The options of `bench run`, by their names, as the grid that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.api import PlanOptions, SeriesOptions
from bench.cli.words import known, pairs, parsed
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.experiment import Adaptation
    from bench.runs.grid import Grid

SEVERAL: dict[str, type] = {  # the options that take a list
    "backbone": str,
    "dataset": str,
    "protocol": str,
    "head": str,
    "shots": int,
    "fractions": float,
    "shifts": str,
    "to": str,
    "seed": int,
    "input_px": int,
}
OF_A_RECIPE = ("epochs", "lr", "batch_size", "weight_decay")
OF_SOME = ("shots", "fractions", "shifts", "to", "axis", "checkpoints", "draws", "by")  # protocols


def grid_of(asked: Mapping[str, Any], *, names_backbone: bool) -> Grid:
    """Turn the options of `bench run`, by name, into a grid.

    Args:
        names_backbone: whether the user named any: else a series takes its own.

    Raises:
        BenchError: an option's words cannot be read.
    """
    from bench.api.experiment import Request
    from bench.runs.grid import Grid

    named = {name: asked[name] for name in ("timestep", "blocks", "condition")}
    options = {key: str(value) for key, value in known(named).items()}
    several = {
        name: parsed(f"--{name}".replace("_", "-"), asked[name], kind)
        for name, kind in SEVERAL.items()
    }
    sides, seeds = several["input_px"], several["seed"]
    request = Request(
        backbone=several["backbone"][0],
        dataset=several["dataset"][0],
        checkpoint=asked["checkpoint"],
        random=wants_random(asked["weights"]),
        accept_license=asked["accept_license"],
        options=options | pairs(asked["option"] or []),
        plan=PlanOptions(
            folds=asked["folds"],
            seed=seeds[0],
            **known({"draws": asked["draws"], "by": asked["by"]}),
        ),
        recipe=known({name: asked[name] for name in OF_A_RECIPE}),
        ttt=_adaptation(asked["ttt"], asked["ttt_option"] or []),
        view=asked["view"],
        input_px=sides[0] if sides else None,
        precision=asked["precision"],
        device=asked["device"],
        limit=asked["limit"],
    )
    varied = {"shots": several["shots"], "fraction": several["fractions"], "seed": seeds}
    return Grid(
        request=request,
        protocols=several["protocol"],
        datasets=several["dataset"],
        backbones=several["backbone"] if names_backbone else (),
        heads=several["head"],
        varied={name: values for name, values in varied.items() if values},
        series=SeriesOptions(
            shifts=several["shifts"],
            to=several["to"],
            axis=asked["axis"] or "",
            fractions=several["fractions"],
            checkpoints=asked["checkpoints"],
            input_px=sides,
        ),
        given=frozenset(f"--{name}" for name in OF_SOME if asked[name] is not None),
    )


def wants_random(weights: str) -> bool:
    """Read the word of --weights."""
    if weights not in ("released", "random"):
        raise BenchError(
            f"--weights {weights!r} is not released or random; for a file: --checkpoint"
        )
    return weights == "random"


def _adaptation(ttt: bool, options: list[str]) -> Adaptation | None:
    from bench.training.test_time import parse_adaptation

    if options and not ttt:
        raise BenchError("--ttt-option without --ttt: add --ttt.")
    return parse_adaptation(pairs(options)) if ttt else None
