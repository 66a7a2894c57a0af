"""`bench run`: one run, or one for each of several backbones, data sets, protocols and heads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.api import PlanOptions, Recipe
from bench.cli import completion
from bench.cli.console import BackboneOptions, Ci, Data, Json, Resamples, Results, progress, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api import Progress
    from bench.api.board import BoardOptions
    from bench.api.experiment import Request
    from bench.api.report import Result
    from bench.runs.execute import Paths
    from bench.runs.grid import ExpandedGrid, Grid

    Runs = Callable[[Sequence[Request], Paths, Progress], Iterable[Result]]

PLAN, RECIPE = PlanOptions(), Recipe()
LIST = "A,B,... for several."
TTT_HELP = "steps, views, lr, part (adaln, decoder, all) or online of --ttt."


@dataclass(frozen=True)
class Output:
    """How runs are made and told."""

    asked: BoardOptions
    places: Paths
    force: bool
    save_masks: bool
    as_json: bool
    plot: Path | None


def run(
    context: typer.Context,
    backbone: Annotated[
        str,
        typer.Option(
            help=f"NAME, NAME@FILE or NAME@random. {LIST}", autocompletion=completion.backbones
        ),
    ] = "cmd-tiny",
    dataset: Annotated[
        str,
        typer.Option(
            help=f"NAME, or a folder with a manifest. {LIST}", autocompletion=completion.datasets
        ),
    ] = "synthetic",
    protocol: Annotated[
        str,
        typer.Option(
            help=f"See `bench list protocols`. {LIST}", autocompletion=completion.protocols
        ),
    ] = "linear-probe",
    head: Annotated[
        str | None,
        typer.Option(
            help=f"Default: the protocol's (linear-probe: linear), else the backbone's. {LIST}",
            autocompletion=completion.heads,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file, or a folder, of weights for the backbone.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="released, or random: an untrained control.")
    ] = "released",
    accept_license: Annotated[
        bool,
        typer.Option("--accept-license", help="Fetch weights whose licence is not known here."),
    ] = False,
    timestep: Annotated[
        int | None, typer.Option(help="CMD: the time step of the features.")
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="CMD: decoder blocks to take, for example 1,3,5.")
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help="CMD: a frozen backbone as condition, or none.")
    ] = None,
    option: BackboneOptions = None,
    shots: Annotated[
        str | None,
        typer.Option(help=f"fewshot: size of a support set. Default: {PLAN.shots}. {LIST}"),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="fewshot: what --shots counts, images or nuclei.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help=f"fewshot, labels: support sets. Default: {PLAN.draws}.")
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(help=f"labels, scaling: of the training images, above 0 to 1. {LIST}"),
    ] = None,
    shifts: Annotated[
        str | None,
        typer.Option(help=f"robustness: kinds, or names such as blur-2. Default: all. {LIST}"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help=f"transfer: sets that are scored. {LIST}", autocompletion=completion.datasets
        ),
    ] = None,
    axis: Annotated[
        str | None, typer.Option(help="scaling: labels, steps, capacity or resolution.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="scaling, steps: the folder of a pretraining.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="K folds over all images, by patient; 0: the official split.")
    ] = PLAN.folds,
    seed: Annotated[str, typer.Option(help=f"Seeds heads, batches and support sets. {LIST}")] = str(
        PLAN.seed
    ),
    epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Default, as all of the recipe: the backbone's own; for heads {RECIPE.epochs}."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help=f"For heads {RECIPE.lr:g}.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"Patches a step; for heads {RECIPE.batch_size}.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help=f"For heads {RECIPE.weight_decay:g}.")
    ] = None,
    ttt: Annotated[
        bool,
        typer.Option(
            "--ttt",
            help="CMD: learn from each test image before scoring it; paired with a run without.",
        ),
    ] = False,
    ttt_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help=TTT_HELP)
    ] = None,
    view: Annotated[
        str, typer.Option(help="whole: resized; tiles: native resolution, blended.")
    ] = "whole",
    input_px: Annotated[
        str | None,
        typer.Option(help="Side of the square input; A,B,... for scaling by resolution."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    limit: Annotated[
        int | None, typer.Option(help="Smoke run on N images; stamped, never on a board.")
    ] = None,
    ci: Ci = "expanded",
    resamples: Resamples = 10_000,
    data: Data = None,
    results: Results = Path("results"),
    cache: Annotated[bool, typer.Option(help="Keep the features of frozen extractors.")] = True,
    force: Annotated[bool, typer.Option(help="Run again, beside the committed run.")] = False,
    save_masks: Annotated[bool, typer.Option(help="Keep the predicted masks as PNG.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the curves of several runs: .svg, .png or .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a head on a backbone's features, score it, and keep the record.

    The same command again prints the committed run at once. Lists, A,B,..., make a run of each
    combination; what fails stops no other, and the same command goes on where it was stopped.
    """
    values = {name: own for name, own in locals().items() if name != "context"}
    from bench.render.grids import is_single
    from bench.runs.grid import expand
    from bench.runs.options import grid_of

    names_backbone = _is_given(context, "backbone")
    grid, manner = grid_of(values, names_backbone=names_backbone), manner_of(values)
    expansion = expand(grid)
    if is_single(grid, expansion):
        _run_one(expansion, manner)
    else:
        run_many(grid, expansion, manner)


def manner_of(asked: Mapping[str, Any]) -> Output:
    """Take from the options of `bench run` how runs are made and told."""
    from bench.api import board
    from bench.board import scores
    from bench.runs.execute import Paths
    from bench.store.cache_dir import cache_root

    told = board.BoardOptions(ci=asked["ci"], resamples=asked["resamples"])
    scores.check(told)
    places = Paths(asked["results"], asked["data"], cache_root() if asked["cache"] else None)
    return Output(
        told, places, asked["force"], asked["save_masks"], asked["as_json"], asked["plot"]
    )


def _run_one(expansion: ExpandedGrid, manner: Output) -> None:
    """Run a single cell, and tell all of its scores."""
    from bench.board import scores
    from bench.render.json import difference_json, run_json
    from bench.render.runs import difference_table, run_notes, run_table
    from bench.runs.execute import execute
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    if expansion.problems:
        raise BenchError(expansion.problems[0])
    if manner.plot is not None:
        raise BenchError("--plot draws curves of several runs: give lists, `--shots 1,5,10`.")
    (request,) = expansion.cells
    session = Session(manner.places.data)
    asked, places, force = manner.asked, replace(manner.places, session=session), manner.force
    with progress(quiet=manner.as_json) as report:
        if request.ttt is not None:  # two runs: the second is not to be refused after the first
            refuse(problems([request], session, report))
        plain = execute(replace(request, ttt=None), places, report) if request.ttt else None
        outcome = execute(request, places, report, force=force, save_masks=manner.save_masks)
        told = scores.scores(outcome.record, scores.counted(outcome.record), asked, report)
    gained = plain and {
        name: scores.difference(outcome.record, plain.record, name) for name in told
    }
    if manner.as_json:
        document = run_json(outcome.record, told, outcome.context)
        if gained is not None:
            document["minus_without_ttt"] = {
                name: difference_json(difference) for name, difference in gained.items()
            }
        print(json.dumps(document))
        return
    show(run_table(outcome.record, told))
    if gained is not None:
        title = "minus the same run without test-time training, paired by patient"
        show(difference_table(title, gained))
    folder = Store(places.results).folder(outcome.record.run_id)
    show(*run_notes(outcome, folder))


def run_many(grid: Grid, expansion: ExpandedGrid, manner: Output, runs: Runs | None = None) -> None:
    """Run the cells of a grid and tell of them in a table; exit code 1 where some failed.

    Args:
        runs: runs the cells; None takes them one after the other, in this process.
    """
    from bench.render import grids
    from bench.render.terminal import WIDTH
    from bench.runs.grid import run as run_cells
    from bench.runs.preflight import problems, refuse
    from bench.runs.session import Session
    from bench.store.results import Store

    store, session = Store(manner.places.results), Session(manner.places.data)
    store.refuse_if_read_only()
    if manner.plot is not None:
        from bench.figures import curves

        grids.refuse_plot(expansion)
        curves.check_kind(manner.plot)
    cells = grids.with_plain_runs(expansion.cells)
    with progress(quiet=manner.as_json) as report:
        refuse([*expansion.problems, *problems(cells, session, report)])
        places = replace(manner.places, session=session)
        masks = manner.save_masks
        if runs is not None:
            results = list(runs(cells, places, report))
        else:
            own = run_cells(cells, places, report, force=manner.force, save_masks=masks)
            results = list(own)
    reports = grids.reports(grid, expansion, results, store, manner.asked)
    drawn = []
    if manner.plot is not None:
        from bench.figures import curves

        plots = [plot for series_report in reports.values() for plot in series_report.curves]
        drawn = curves.draw(plots, manner.plot)
    if manner.as_json:
        print(json.dumps(grids.grid_json(results, reports, manner.asked)))
    else:
        page = grids.page(results, reports, manner.asked, store)
        show(*page, *(f"drawn: {path}" for path in drawn), width=WIDTH)
    if any(each.reason for each in results):
        raise typer.Exit(1)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
