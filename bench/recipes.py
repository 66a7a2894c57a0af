"""The cells of a paper's table as runs of ours: which command each stands for, and what it needs.

The mapping is data, `leaderboards/published/cmd_recipes.csv`; the paper's settings that it does not
name (epochs, optimiser) are those of the backbones' own recipes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from bench import data, hub, local, registry, weights
from bench.adapt import Adaptation
from bench.api import Backbone, Dataset, PlanOptions
from bench.beside import FILE, our_name, shots_of
from bench.command import of_request
from bench.errors import BenchError
from bench.job import Request
from bench.published import PrintedCell, cells
from bench.views import nearest_multiple

TABLES = ("4", "5", "6", "7", "C1")


@dataclass(frozen=True)
class Recipe:
    """A row of a paper's table as ours.

    Attributes:
        table, method: as printed.
        head: "" where the backbone or the protocol has its own.
        steps: of the pretraining whose weights it takes ("80k"); "" where its cells say so, or
            where there is none.
        note: why our number can be another.
    """

    table: str
    method: str
    backbone: str
    options: Mapping[str, str]
    head: str
    protocol: str
    steps: str
    ttt: bool
    note: str


@dataclass(frozen=True)
class Scope:
    """What a user has and asks for.

    Attributes:
        checkpoints: a folder of weights by the names of `Attempt.weights_name`.
        methods: of the table; none takes all.
        epochs: None takes the recipes' own.
        limit: for a smoke run.
    """

    data: Path | None = None
    checkpoints: Path | None = None
    methods: tuple[str, ...] = ()
    epochs: int | None = None
    device: str = "auto"
    limit: int | None = None


@dataclass(frozen=True)
class Obstacle:
    """Why a run cannot run here: in short ("no weights"), and with the cure."""

    short: str
    cure: str


@dataclass(frozen=True)
class Attempt:
    """A run that stands for cells of a paper.

    Attributes:
        dataset: our name.
        cells: what is printed, one a score.
        obstacles: none where it can run here.
        notes: why our number can be another.
    """

    recipe: Recipe
    setting: str
    dataset: str
    cells: tuple[PrintedCell, ...]
    request: Request
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The `bench run` of it; weights of a pretraining that are not here yet stand in DIR."""
        name = weights_name(self.recipe, self.setting)
        given = self.request.checkpoint or name == _plain_name(self.recipe)
        return of_request(self.request) + ("" if given else f" --checkpoint DIR/{name}")


def read() -> list[Recipe]:
    """Read the recipes, in the order of the paper."""
    text = files("bench.leaderboards").joinpath("published", "cmd_recipes.csv").read_text("utf-8")
    return [_recipe(row) for row in csv.DictReader(text.splitlines())]


def attempts(table: str, scope: Scope) -> list[Attempt]:
    """Plan the runs of a table, each with what stands in its way.

    Raises:
        BenchError: there is no such table, or it has no such method.
    """
    if table not in TABLES:
        raise BenchError(
            f"--table {table}: choose one of {', '.join(TABLES)}; tables 1 to 3 are studies of "
            "pretraining, `bench study --table 1 --images ... --out ...`."
        )
    own = [each for each in read() if each.table == table]
    unknown = [name for name in scope.methods if name not in {each.method for each in own}]
    if unknown:
        known = "; ".join(each.method for each in own)
        raise BenchError(f"table {table} has no method {unknown[0]!r}: {known}.")
    return [
        _attempt(recipe, group, scope)
        for recipe in own
        if recipe.method in scope.methods or not scope.methods
        for group in _runs_of(recipe)
    ]


def weights_name(recipe: Recipe, setting: str) -> str:
    """Name the weights of a row in the folder of `--checkpoints`: "uni", "cmd-l-80k"."""
    steps = recipe.steps or (setting.removesuffix(" steps") if setting.endswith(" steps") else "")
    name = _plain_name(recipe)
    return f"{name}-{steps}" if steps else name


def _plain_name(recipe: Recipe) -> str:
    """Name whose weights a backbone takes: those of the inner one of "cnn-adapter:uni2-h"."""
    return recipe.backbone.rpartition(":")[2]


def _recipe(row: Mapping[str, str]) -> Recipe:
    return Recipe(
        table=row["table"],
        method=row["method"],
        backbone=row["backbone"],
        options=dict(pair.split("=", 1) for pair in row["options"].split()),
        head=row["head"],
        protocol=row["protocol"],
        steps=row["steps"],
        ttt=row["ttt"] == "yes",
        note=row["note"],
    )


def _runs_of(recipe: Recipe) -> list[list[PrintedCell]]:
    """Group the cells of a row by the run that gives them all."""
    groups: dict[tuple[str, str], list[PrintedCell]] = {}
    for cell in cells(FILE):
        if (cell.table, cell.method) == (recipe.table, recipe.method):
            groups.setdefault((cell.dataset, cell.setting), []).append(cell)
    return list(groups.values())


def _attempt(recipe: Recipe, own: Sequence[PrintedCell], scope: Scope) -> Attempt:
    first = own[0]
    request = _request(recipe, first, scope)
    attempt = Attempt(recipe, first.setting, request.dataset, tuple(own), request)
    obstacles = _no_data(request.dataset, scope)
    notes = [recipe.note] if recipe.note else []
    try:
        shape = _described(recipe.backbone, tuple(recipe.options.items()))
    except BenchError as error:
        return replace(attempt, obstacles=(*obstacles, Obstacle("cannot be built", str(error))))
    side, paper = _sides(shape, registry.get("datasets", request.dataset))
    if side != paper:
        notes.append(f"at {side} px: {paper} is no multiple of {max(shape.strides)}")
    return replace(
        attempt,
        request=replace(request, input_px=side),
        obstacles=(*obstacles, *_no_weights(shape.backbone, attempt)),
        notes=tuple(notes),
    )


def _request(recipe: Recipe, cell: PrintedCell, scope: Scope) -> Request:
    shots = shots_of(cell)
    return Request(
        backbone=recipe.backbone,
        dataset=our_name(cell.dataset),
        protocol=recipe.protocol,
        head=recipe.head or None,
        checkpoint=_checkpoint(scope, weights_name(recipe, cell.setting)),
        options=recipe.options,
        plan=PlanOptions() if shots is None else PlanOptions(shots=shots),
        recipe={} if scope.epochs is None else {"epochs": scope.epochs},
        ttt=Adaptation() if recipe.ttt else None,
        device=scope.device,
        limit=scope.limit,
    )


@lru_cache(maxsize=64)
def _described(name: str, options: tuple[tuple[str, str], ...]) -> weights.Description:
    """Build a backbone on the meta device; a BenchError where that fails, for whatever reason."""
    try:
        return weights.describe(name, dict(options))
    except BenchError:
        raise
    except Exception as error:  # the plug-in's code, and its libraries, which may not be there
        raise BenchError(repr(error)) from error


def _checkpoint(scope: Scope, name: str) -> Path | None:
    """Find a file of weights, or a folder as `bench pretrain` writes it."""
    if scope.checkpoints is None:
        return None
    folder = scope.checkpoints / name
    if (folder / weights.FILE_OF_A_FOLDER).is_file():
        return folder
    known = [scope.checkpoints / f"{name}{suffix}" for suffix in (".safetensors", ".bin", ".pth")]
    return next((path for path in known if path.is_file()), None)


def _sides(shape: weights.Description, dataset: Dataset) -> tuple[int, int]:
    """Give the side of the input as `bench run` takes it, and the paper's."""
    stride = max(shape.strides)
    paper = shape.backbone.input_px or dataset.input_px.get(stride, dataset.input_px[0])
    return nearest_multiple(paper, stride), paper


def _no_data(name: str, scope: Scope) -> list[Obstacle]:
    if data.installed(scope.data)[name]:
        return []
    dataset: Dataset = registry.get("datasets", name)
    verb = "download" if dataset.download else "prepare"
    return [Obstacle("no data", f"{name}: `bench datasets {verb} {name}`, then --data DIR")]


def _no_weights(backbone: Backbone, attempt: Attempt) -> list[Obstacle]:
    """Say whose weights this machine lacks: of the backbone, and of its condition."""
    lacking = []
    if attempt.request.checkpoint is None and local.holder(backbone) == "no":
        name = weights_name(attempt.recipe, attempt.setting)
        lacking.append(_no_weights_of(backbone, [f"DIR/{name}.safetensors with --checkpoints DIR"]))
    condition = attempt.recipe.options.get("condition")
    if condition and local.holder(frozen := registry.get("backbones", condition)) == "no":
        lacking.append(_no_weights_of(frozen, []))
    return lacking


def _no_weights_of(backbone: Backbone, cures: list[str]) -> Obstacle:
    if backbone.weights.repo:
        gate = "with the terms accepted at " if backbone.gated else "from "
        page = hub.page(backbone.weights)
        cures.append(f"fetched by `bench run --backbone {backbone.name}`, {gate}{page}")
    if backbone.trainer:
        cures.append(f"made by `{backbone.trainer}`")
    return Obstacle(f"no {backbone.name}", f"weights of {backbone.name}: {', or '.join(cures)}")
