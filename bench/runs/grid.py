"""Expand a grid into the configs of single runs, and run them one after the other.

A run that fails stops no other. Finished runs are found in the store, so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from bench import registry
from bench.api import Progress, Protocol, Series
from bench.api.options import options
from bench.api.report import Result
from bench.api.run_config import RECIPE_OPTIONS, Grid, RunConfig
from bench.errors import BenchError, RunFailed
from bench.runs.execute import Paths, execute

TRAINING = ("recipe", *RECIPE_OPTIONS)
FIELDS = {  # of `RunConfig`, by the names in `Protocol.options` where they differ
    "by": "shots_unit",
    "fractions": "fraction",
    "shifts": "shift",
    "target_datasets": "target_dataset",
}
PROTOCOL_OPTIONS = (  # options that only some protocols read
    *("shots", "draws", "shots_unit", "fraction", "shift", "target_dataset"),
    *("scale_over", "checkpoints"),
)
SERIES_ONLY: dict[str, Any] = {
    "shift": "",
    "target_dataset": None,
    "scale_over": "",
    "checkpoints": None,
}


@dataclass(frozen=True)
class Story:
    """The runs of a protocol or a series."""

    teller: Protocol | Series
    cells: Sequence[RunConfig]


@dataclass(frozen=True)
class ExpandedGrid:
    """The runs of a grid, ordered by data set and then by backbone, so that each is loaded once.

    Attributes:
        problems: why the grid cannot run; empty if it can.
    """

    cells: Sequence[RunConfig]
    stories: Sequence[Story]
    problems: Sequence[str]


def expand(grid: Grid) -> ExpandedGrid:
    """Return the runs of a grid without duplicates."""
    problems: list[str] = []
    datasets = grid.lists.get("dataset", (grid.config.dataset,))
    tellers = _protocols(grid.lists.get("protocol", (grid.config.protocol,)), problems)
    if not problems:
        problems += _unread_options(grid, tellers)
    stories = []
    for teller in tellers:
        backbones = _backbones(grid, teller)
        if isinstance(teller, Series) and len(set(backbones)) < teller.fewest:
            problems.append(
                f"{teller.name!r} needs {teller.fewest} backbones or more, but there is only "
                f"{', '.join(backbones)}: use `--backbone A,B,C`."
            )
        choices = product(datasets, backbones, _heads(grid, teller, tellers))
        try:
            cells = [
                cell
                for dataset, backbone, head in choices
                for cell in _cells(
                    replace(grid.config, dataset=dataset, backbone=backbone, head=head),
                    grid,
                    teller,
                )
            ]
        except BenchError as error:
            problems.append(str(error))
            continue
        stories.append(Story(teller, without_duplicates(cells)))
    cells = without_duplicates([cell for story in stories for cell in story.cells])
    names = list(dict.fromkeys(cell.backbone for cell in cells))
    cells.sort(key=lambda cell: (datasets.index(cell.dataset), names.index(cell.backbone)))
    return ExpandedGrid(cells, stories, list(dict.fromkeys(problems)))


def run(
    cells: Sequence[RunConfig],
    places: Paths,
    progress: Progress,
    *,
    force: bool = False,
    save_masks: bool = False,
) -> Iterator[Result]:
    """Run cells one after the other and yield the result of each.

    A head that several cells share is cached whatever its size.
    """
    trainings = [training_of(cell) for cell in cells]
    for number, cell in enumerate(cells):
        name = f"cell: {number + 1} of {len(cells)}, {cell.backbone} on {cell.dataset}"
        progress(name, number, len(cells))
        is_shared = trainings.count(trainings[number]) > 1
        try:
            outcome = execute(
                cell,
                replace(places, keep_large=places.keep_large or is_shared),
                progress,
                force=force,
                save_masks=save_masks,
            )
        except (BenchError, RunFailed) as error:
            yield Result(cell, reason=str(error))
        except Exception as error:  # raised by a plug-in
            yield Result(cell, reason=f"{type(error).__name__}: {error}")
        else:
            yield Result(cell, outcome)
    progress("cell: all", len(cells), len(cells))


def fields_read(teller: Protocol | Series) -> set[str]:
    """Return the fields of `RunConfig` that a protocol or a series reads."""
    return {FIELDS.get(name, name) for name in teller.options}


def unread_options(changed: set[str], tellers: Sequence[Protocol | Series]) -> str:
    """Return the complaint about options that none of the protocols reads; "" if there are none."""
    known = options(RunConfig)
    read = set().union(*map(fields_read, tellers))
    unread = [name for name in PROTOCOL_OPTIONS if name in changed - read]
    if not unread:
        return ""
    flags = " or ".join(known[name].flag for name in unread)
    plural = len(tellers) > 1
    names = ", ".join(repr(teller.name) for teller in tellers)
    others = (registry.get("protocols", name) for name in registry.names("protocols"))
    readers = [f"--protocol {each.name}" for each in others if {*unread} <= fields_read(each)]
    hint = f"; {' or '.join(readers)} {'do' if len(readers) > 1 else 'does'}" if readers else ""
    return f"the protocol{'s' * plural} {names} take{'s' * (not plural)} no {flags}{hint}."


def _protocols(names: Sequence[str], problems: list[str]) -> list[Protocol | Series]:
    protocols = []
    for name in names:
        try:
            protocols.append(registry.get("protocols", name))
        except BenchError as error:
            problems.append(str(error))
    return protocols


def _unread_options(grid: Grid, tellers: Sequence[Protocol | Series]) -> list[str]:
    """Return complaints about options that no protocol reads, or that take one value only."""
    complaint = unread_options(grid.changed, tellers)
    problems = [complaint] if complaint else []
    several = {name for name, values in grid.lists.items() if len(values) > 1}
    plain = [teller.name for teller in tellers if "input_px" not in teller.options]
    if "input_px" in several and plain:
        problems.append(f"--input-px takes one number for {', '.join(plain)}.")
    series = [teller.name for teller in tellers if isinstance(teller, Series)]
    for name in ("seed", *TRAINING):
        if name in several and series:
            flag = options(RunConfig)[name].flag
            problems.append(f"{flag} takes one number for {', '.join(series)}.")
    return problems


def _backbones(grid: Grid, teller: Protocol | Series) -> Sequence[str]:
    defaults = teller.backbones(grid.series) if isinstance(teller, Series) else ()
    return grid.lists.get("backbone") or defaults or (grid.config.backbone,)


def _heads(
    grid: Grid, teller: Protocol | Series, tellers: Sequence[Protocol | Series]
) -> Sequence[str | None]:
    """Return the heads for a protocol.

    A protocol that prescribes its head ignores the option if another protocol uses it.
    """
    heads = grid.lists.get("head", ())
    prescribed = None if isinstance(teller, Series) else teller.head
    others_choose = any(isinstance(each, Series) or each.head is None for each in tellers)
    if not heads or (prescribed and others_choose):
        return [None]
    return [None if head == prescribed else head for head in heads]


def _cells(config: RunConfig, grid: Grid, teller: Protocol | Series) -> Iterator[RunConfig]:
    """Yield the runs of a protocol or series for one backbone, data set and head.

    What a protocol does not read has its default, so that equal runs have equal configs.
    """
    if isinstance(teller, Series):
        config = replace(config, protocol=teller.name, shots=None, fraction=None, **SERIES_ONLY)
        yield from teller.runs(config, grid.series)
        return
    read = fields_read(teller)
    unread: dict[str, Any] = {name: None for name in ("shots", "fraction") if name not in read}
    config = replace(config, protocol=teller.name, **unread, **SERIES_ONLY)
    varied = {"shots", "fraction"} & read | {"seed", *TRAINING}
    lists = {name: values for name, values in grid.lists.items() if name in varied}
    for values in product(*lists.values()):
        changes: dict[str, Any] = dict(zip(lists, values, strict=True))
        yield replace(config, **changes)


def without_duplicates(cells: Sequence[RunConfig]) -> list[RunConfig]:
    """Return the cells in order, equal ones once."""
    unique: list[RunConfig] = []
    for cell in cells:
        if cell not in unique:
            unique.append(cell)
    return unique


def varied_recipe(cells: Sequence[RunConfig]) -> list[str]:
    """Return the fields of the recipe in which cells differ."""
    return [name for name in TRAINING if len({getattr(cell, name) for cell in cells}) > 1]


def recipe_words(config: RunConfig, names: Sequence[str]) -> list[str]:
    """Return fields of the recipe as text; a field without a value has its default."""
    values = {name.replace("_", " "): getattr(config, name) for name in names}
    return [f"{name} {'default' if each is None else each}" for name, each in values.items()]


def protocol_name(config: RunConfig, *, several: bool = True, recipe: Sequence[str] = ()) -> str:
    """Name the protocol with the settings in which its runs differ.

    Args:
        several: whether runs differ in their input size.
        recipe: the fields of the recipe in which runs differ.
    """
    read, plan = registry.get("protocols", config.protocol).options, config.plan
    words = [config.protocol]
    if "shots" in read:
        words.append(f"{plan.by}: {plan.shots}")
    if "fraction" in read:
        words.append(f"{plan.fraction:.3g}")
    if several and config.input_px:
        words.append(f"{config.input_px} px")
    if config.checkpoint:
        words.append(config.checkpoint.stem)
    words += recipe_words(config, recipe)
    if config.seed:
        words.append(f"seed {config.seed}")
    return ", ".join(words)


def training_of(cell: RunConfig) -> RunConfig:
    """Return the config of the training of a run, without what only its scoring uses."""
    return replace(cell.without_ttt(), shift="", target_dataset=None)
