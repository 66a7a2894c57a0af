"""Map the cells of a paper's tables to runs: the command of each cell, and what it needs.

The mapping is in `leaderboards/published/cmd_recipes.csv`. Settings that it does not name (epochs,
optimiser) come from the backbones' recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from bench import registry
from bench.api import Backbone, Dataset
from bench.api.options import check_choices
from bench.api.run_config import RunConfig
from bench.data import find
from bench.errors import BenchError
from bench.features.views import nearest_multiple
from bench.models import hub, load
from bench.paper.config import ReproduceConfig
from bench.paper.printed_rows import FILE, our_name, shots_of
from bench.paper.published import PrintedCell, cells, options_of, rows
from bench.runs.command import to_command

TABLES = ("4", "5", "6", "7", "C1")


@dataclass(frozen=True)
class PaperRecipe:
    """The run configuration of a row of a paper's table.

    Attributes:
        table, method: as printed.
        head: "" selects the default of the backbone or protocol.
        steps: pretraining steps of the weights ("80k"); "" if the cells state them, or if there
            is no pretraining.
        note: why our score can differ.
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
class Obstacle:
    """Why a run cannot run here: in short ("no weights"), and how to fix it."""

    short: str
    fix: str


@dataclass(frozen=True)
class Attempt:
    """A run that corresponds to cells of a paper.

    Attributes:
        dataset: registry name of the data set.
        cells: the printed cells, one per score.
        obstacles: empty if the run can run here.
        notes: why our score can differ.
    """

    recipe: PaperRecipe
    setting: str
    dataset: str
    cells: tuple[PrintedCell, ...]
    request: RunConfig
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The `bench run` command; missing pretrained weights appear as DIR/NAME."""
        command = to_command(self.request)
        name = weights_name(self.recipe, self.setting)
        if self.request.checkpoint or name == _weights_backbone(self.recipe):
            return command
        return f"{command} --checkpoint DIR/{name}"


def read() -> list[PaperRecipe]:
    """Return the recipes in the order of the paper."""
    return [
        PaperRecipe(
            table=row["table"],
            method=row["method"],
            backbone=row["backbone"],
            options=options_of(row),
            head=row["head"],
            protocol=row["protocol"],
            steps=row["steps"],
            ttt=row["ttt"] == "yes",
            note=row["note"],
        )
        for row in rows("cmd_recipes")
    ]


def attempts(config: ReproduceConfig) -> list[Attempt]:
    """Plan the runs of a table and find the obstacles of each.

    Raises:
        BenchError: the table or a method does not exist.
    """
    check_choices(config)
    table = config.table.upper()
    if table not in TABLES:
        raise BenchError(
            f"--table {table}: choose one of {', '.join(TABLES)}. Tables 1 to 3 compare "
            "pretraining variants; use `bench study --table 1 --images ... --out ...`."
        )
    recipes = [recipe for recipe in read() if recipe.table == table]
    methods = [recipe.method for recipe in recipes]
    for name in config.only:
        if name not in methods:
            raise BenchError(
                f"table {table} has no method {name!r}. Choose from: {'; '.join(methods)}."
            )
    planned = []
    for recipe in recipes:
        if config.only and recipe.method not in config.only:
            continue
        runs: dict[tuple[str, str], list[PrintedCell]] = {}
        for cell in cells(FILE):
            if (cell.table, cell.method) == (recipe.table, recipe.method):
                runs.setdefault((cell.dataset, cell.setting), []).append(cell)
        planned += [_attempt(recipe, run_cells, config) for run_cells in runs.values()]
    return planned


def weights_name(recipe: PaperRecipe, setting: str) -> str:
    """Return the name of a row's weights in the `--checkpoints` folder: "uni", "cmd-l-80k"."""
    steps = recipe.steps or (setting.removesuffix(" steps") if setting.endswith(" steps") else "")
    name = _weights_backbone(recipe)
    return f"{name}-{steps}" if steps else name


def _weights_backbone(recipe: PaperRecipe) -> str:
    """Return the backbone whose weights are loaded: the inner one of "cnn-adapter:uni2-h"."""
    return recipe.backbone.rpartition(":")[2]


def _attempt(
    recipe: PaperRecipe, run_cells: Sequence[PrintedCell], config: ReproduceConfig
) -> Attempt:
    request = _request(recipe, run_cells[0], config)
    setting = run_cells[0].setting
    attempt = Attempt(recipe, setting, request.dataset, tuple(run_cells), request)
    obstacles = _no_data(request.dataset, config)
    notes = [recipe.note] if recipe.note else []
    try:
        shape = _described(recipe.backbone, tuple(recipe.options.items()))
    except BenchError as error:
        return replace(attempt, obstacles=(*obstacles, Obstacle("cannot be built", str(error))))
    side, paper = _sides(shape, registry.get("datasets", request.dataset))
    if side != paper:
        notes.append(f"at {side} px: {paper} is not a multiple of {max(shape.strides)}")
    return replace(
        attempt,
        request=replace(request, input_px=side),
        obstacles=(*obstacles, *_no_weights(shape.backbone, attempt)),
        notes=tuple(notes),
    )


def _request(recipe: PaperRecipe, cell: PrintedCell, config: ReproduceConfig) -> RunConfig:
    shots = shots_of(cell)
    return RunConfig(
        backbone=recipe.backbone,
        dataset=our_name(cell.dataset),
        protocol=recipe.protocol,
        head=recipe.head or None,
        checkpoint=_checkpoint(config, weights_name(recipe, cell.setting)),
        option=recipe.options,
        shots=shots,
        folds=0,
        recipe="paper",
        epochs=config.epochs,
        ttt=recipe.ttt,
        device=config.device,
        limit=config.limit,
    )


@lru_cache(maxsize=64)
def _described(name: str, options: tuple[tuple[str, str], ...]) -> load.Description:
    """Build a backbone on the meta device; any failure becomes a BenchError."""
    try:
        return load.describe(name, dict(options))
    except BenchError:
        raise
    except Exception as error:  # raised by the plug-in or by a library that is not installed
        raise BenchError(repr(error)) from error


def _checkpoint(config: ReproduceConfig, name: str) -> Path | None:
    """Find a weights file, or a folder written by `bench pretrain`."""
    if config.checkpoints is None:
        return None
    folder = config.checkpoints / name
    if (folder / load.FILE_OF_A_FOLDER).is_file():
        return folder
    for suffix in (".safetensors", ".bin", ".pth"):
        path = config.checkpoints / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def _sides(shape: load.Description, dataset: Dataset) -> tuple[int, int]:
    """Return the side of the input in pixels, and the side that the paper uses."""
    stride = max(shape.strides)
    paper = shape.backbone.input_px or dataset.input_px.get(stride, dataset.input_px[0])
    return nearest_multiple(paper, stride), paper


def _no_data(name: str, config: ReproduceConfig) -> list[Obstacle]:
    if find.installed(config.data)[name]:
        return []
    dataset: Dataset = registry.get("datasets", name)
    verb = "download" if dataset.download else "prepare"
    return [Obstacle("no data", f"{name}: `bench datasets {verb} {name}`, then --data DIR")]


def _no_weights(backbone: Backbone, attempt: Attempt) -> list[Obstacle]:
    """List the weights missing on this machine: of the backbone and of its condition."""
    missing = []
    if attempt.request.checkpoint is None and hub.location(backbone) == "no":
        name = weights_name(attempt.recipe, attempt.setting)
        missing.append(_no_weights_of(backbone, [f"DIR/{name}.safetensors with --checkpoints DIR"]))
    condition = attempt.recipe.options.get("condition")
    if condition:
        frozen = registry.get("backbones", condition)
        if hub.location(frozen) == "no":
            missing.append(_no_weights_of(frozen, []))
    return missing


def _no_weights_of(backbone: Backbone, fixes: list[str]) -> Obstacle:
    if backbone.weights.repo:
        source = "after accepting the terms at " if backbone.gated else "from "
        page = hub.page(backbone.weights)
        fixes.append(f"downloaded by `bench run --backbone {backbone.name}`, {source}{page}")
    if backbone.trainer:
        fixes.append(f"trained by `{backbone.trainer}`")
    return Obstacle(f"no {backbone.name}", f"weights of {backbone.name}: {', or '.join(fixes)}")
