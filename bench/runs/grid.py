"""Many runs at once: what was asked becomes cells, a run each, that are run one after the other.

A cell that fails stops no other; one that was finished before is found, so the same command goes on
where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from bench import registry
from bench.api import Progress, Protocol, Series, SeriesOptions
from bench.api.experiment import Request
from bench.api.report import Result
from bench.errors import BenchError, RunFailed
from bench.runs.execute import Paths, execute

FLAGS = {  # the options that not every protocol reads: by the names in their records
    "shots": "--shots",
    "draws": "--draws",
    "by": "--by",
    "fraction": "--fractions",
    "fractions": "--fractions",
    "shifts": "--shifts",
    "to": "--to",
    "axis": "--axis",
    "checkpoints": "--checkpoints",
}


@dataclass(frozen=True)
class Grid:
    """What is asked for.

    Attributes:
        request: what all cells share.
        backbones: empty takes those of a series, or the request's.
        heads: for the protocols that prescribe none; empty takes the backbones' own.
        varied: lists of values, by the field of `PlanOptions`.
        series: for the protocols that are series.
        given: the flags in `FLAGS` that the user gave.
    """

    request: Request
    protocols: Sequence[str]
    datasets: Sequence[str]
    backbones: Sequence[str] = ()
    heads: Sequence[str] = ()
    varied: Mapping[str, Sequence[object]] = field(default_factory=dict)
    series: SeriesOptions = field(default_factory=SeriesOptions)
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Story:
    """The cells of a protocol or a series, which tells of them when they have run."""

    teller: Protocol | Series
    cells: Sequence[Request]


@dataclass(frozen=True)
class ExpandedGrid:
    """The cells of a grid: data set by data set, so that files and features are met again soon, and
    backbone by backbone, so that each is loaded once a data set.

    Attributes:
        problems: what was asked and cannot be.
    """

    cells: Sequence[Request]
    stories: Sequence[Story]
    problems: Sequence[str]


def expand(grid: Grid) -> ExpandedGrid:
    """Make the cells of a grid, each once."""
    problems: list[str] = []
    tellers = _found(grid.protocols, problems)
    problems += _foreign(grid, tellers)
    stories = []
    for teller in tellers:
        backbones = _backbones(grid, teller)
        if isinstance(teller, Series) and len(set(backbones)) < teller.fewest:
            named = ", ".join(backbones)
            problems.append(
                f"{teller.name!r} needs {teller.fewest} backbones or more, and there is {named}: "
                "give several, `--backbone A,B,C`."
            )
        try:
            own = list(_cells(grid, teller, backbones, heads=_heads(grid, teller, tellers)))
        except BenchError as error:
            problems.append(str(error))
            continue
        stories.append(Story(teller, each_once(own)))
    cells = each_once([cell for story in stories for cell in story.cells])
    names = list(dict.fromkeys(cell.backbone for cell in cells))
    cells.sort(key=lambda cell: (grid.datasets.index(cell.dataset), names.index(cell.backbone)))
    return ExpandedGrid(cells, stories, list(dict.fromkeys(problems)))


def run(
    cells: Sequence[Request],
    places: Paths,
    progress: Progress,
    *,
    force: bool = False,
    save_masks: bool = False,
) -> Iterator[Result]:
    """Run cells one after the other; give each as it ends.

    What is trained for one cell and is scored in another too is kept, however large it is.
    """
    trainings = [training_of(cell) for cell in cells]
    for number, cell in enumerate(cells):
        name = f"cell: {number + 1} of {len(cells)}, {cell.backbone} on {cell.dataset}"
        progress(name, number, len(cells))
        shared = trainings.count(trainings[number]) > 1
        try:
            outcome = execute(
                cell,
                replace(places, keep_large=places.keep_large or shared),
                progress,
                force=force,
                save_masks=save_masks,
            )
        except (BenchError, RunFailed) as error:
            yield Result(cell, reason=str(error))
        except Exception as error:  # of a plug-in: it stops its own cell
            yield Result(cell, reason=f"{type(error).__name__}: {error}")
        else:
            yield Result(cell, outcome)
    progress("cell: all", len(cells), len(cells))


def _found(names: Sequence[str], problems: list[str]) -> list[Protocol | Series]:
    found = []
    for name in names:
        try:
            found.append(registry.get("protocols", name))
        except BenchError as error:
            problems.append(str(error))
    return found


def _foreign(grid: Grid, tellers: Sequence[Protocol | Series]) -> list[str]:
    """Complain of the options that none of the protocols reads; not where one is unknown."""
    if len(tellers) < len(grid.protocols):
        return []
    read = {FLAGS[name] for teller in tellers for name in teller.options if name in FLAGS}
    told = []
    if foreign := sorted(grid.given - read):
        named = ", ".join(repr(teller.name) for teller in tellers)
        whose = "protocol" if len(tellers) == 1 else "protocols"
        takes = "takes" if len(tellers) == 1 else "take"
        told.append(f"the {whose} {named} {takes} no {' or '.join(foreign)}{_readers(foreign)}.")
    plain = [each.name for each in tellers if "input_px" not in each.options]
    if len(grid.series.input_px) > 1 and plain:
        told.append(f"--input-px takes one number for {', '.join(plain)}.")
    series = [teller.name for teller in tellers if isinstance(teller, Series)]
    if len(grid.varied.get("seed", ())) > 1 and series:
        told.append(f"--seed takes one number for {', '.join(series)}.")
    return told


def _readers(flags: Sequence[str]) -> str:
    """Name the protocols that read all of some options."""
    known = (registry.get("protocols", name) for name in registry.names("protocols"))
    fits = [
        f"--protocol {each.name}"
        for each in known
        if {*flags} <= {FLAGS[name] for name in each.options if name in FLAGS}
    ]
    return f"; {' or '.join(fits)} {'does' if len(fits) == 1 else 'do'}" if fits else ""


def _backbones(grid: Grid, teller: Protocol | Series) -> Sequence[str]:
    own = teller.backbones(grid.series) if isinstance(teller, Series) else ()
    return grid.backbones or own or (grid.request.backbone,)


def _heads(
    grid: Grid, teller: Protocol | Series, tellers: Sequence[Protocol | Series]
) -> Sequence[str | None]:
    """Give the heads for a protocol: none where it prescribes one, and another takes them."""
    own = None if isinstance(teller, Series) else teller.head
    free = any(isinstance(each, Series) or each.head is None for each in tellers)
    if not grid.heads or (own and free):
        return [None]  # one name for the head that is prescribed; others are complained of
    return [None if head == own else head for head in grid.heads]


def _cells(
    grid: Grid,
    teller: Protocol | Series,
    backbones: Sequence[str],
    *,
    heads: Sequence[str | None],
) -> Iterator[Request]:
    for dataset, backbone, head in product(grid.datasets, backbones, heads):
        request = replace(
            grid.request, dataset=dataset, backbone=backbone, head=head, protocol=teller.name
        )
        if isinstance(teller, Series):
            yield from teller.runs(request, grid.series)
        else:
            yield from _planned(request, grid, teller)


def _planned(request: Request, grid: Grid, protocol: Protocol) -> Iterator[Request]:
    """Vary the seed, and what the protocol reads."""
    names = [name for name in grid.varied if name in (*protocol.options, "seed")]
    for values in product(*(grid.varied[name] for name in names)):
        changes: dict[str, Any] = dict(zip(names, values, strict=True))
        yield replace(request, plan=replace(request.plan, **changes))


def each_once(cells: Sequence[Request]) -> list[Request]:
    """Drop the cells that were there already."""
    kept: list[Request] = []
    for cell in cells:
        if cell not in kept:
            kept.append(cell)
    return kept


def protocol_name(request: Request, *, several: bool = True) -> str:
    """Name the protocol with what tells its runs apart: the side too, where there are several."""
    read, plan = registry.get("protocols", request.protocol).options, request.plan
    words = [request.protocol]
    if "shots" in read:
        words.append(f"{plan.by}: {plan.shots}")
    if "fraction" in read:
        words.append(f"{plan.fraction:.3g}")
    if several and request.input_px:
        words.append(f"{request.input_px} px")
    if request.checkpoint:
        words.append(request.checkpoint.stem)
    if plan.seed:
        words.append(f"seed {plan.seed}")
    return ", ".join(words)


def training_of(cell: Request) -> Request:
    """Take from a cell what matters for what it trains."""
    return replace(cell, shift="", to=None, ttt=None)
