"""The command `bench`: it parses and prints, nothing else. It imports torch only when it must."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api import PlanOptions, Recipe
from bench.cli_board import compare, explain, leaderboard
from bench.cli_datasets import datasets_app
from bench.cli_pretrain import pretrain
from bench.cli_published import lint_published
from bench.cli_reproduce import reproduce
from bench.cli_share import export, merge
from bench.cli_study import study
from bench.console import BackboneOptions, Ci, Data, Json, Resamples, Results, err, out, progress
from bench.errors import BenchError, RunFailed

if TYPE_CHECKING:
    from bench.adapt import Adaptation

app = typer.Typer(
    name="bench",
    help="Which pathology foundation model sees cells best: frozen features, few labels, honest "
    "intervals.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(datasets_app, name="datasets")
app.command()(pretrain)
app.command()(study)
app.command()(leaderboard)
app.command()(compare)
app.command()(explain)
app.command()(export)
app.command()(merge)
app.command()(reproduce)
app.command("lint-published")(lint_published)
PLAN, RECIPE = PlanOptions(), Recipe()
TTT_HELP = "steps, views, lr, part (adaln, decoder, all) or online of --ttt."


def main() -> None:
    """Run the command; a curable error ends with exit code 2, a failed run with 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except BenchError as error:
        _complain(str(error), 2)
    except RunFailed as error:
        _complain(f"the run failed: {error}", 1)
    except KeyboardInterrupt:
        _complain("stopped. What was finished is kept: the same command goes on from there.", 130)


def _complain(message: str, code: int) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@app.command()
def run(
    backbone: Annotated[str, typer.Option(help="NAME, NAME@FILE or NAME@random.")] = "cmd-tiny",
    dataset: Annotated[str, typer.Option(help="NAME, or a folder with a manifest.")] = "synthetic",
    protocol: Annotated[str, typer.Option(help="See `bench list protocols`.")] = "linear-probe",
    head: Annotated[str | None, typer.Option(help="Default: the backbone's own.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file, or a folder, of weights for the backbone.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="released, or random: the untrained twin, a control.")
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
        int | None, typer.Option(help=f"fewshot: training images. Default: {PLAN.shots}.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help=f"fewshot: support sets. Default: {PLAN.draws}.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="K folds over all images, by patient; 0: the official split.")
    ] = PLAN.folds,
    seed: Annotated[int, typer.Option(help="Seeds heads, batches and support sets.")] = PLAN.seed,
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
    input_px: Annotated[int | None, typer.Option(help="Side of the square input.")] = None,
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
    as_json: Json = False,
) -> None:
    """Train a head on a backbone's features, score it, and keep the record.

    The same command again prints the committed run at once.
    """
    from bench import board, display
    from bench.data import cache_root
    from bench.job import Request
    from bench.run import Places, execute
    from bench.store import Store

    recipe = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
    }
    named = {"timestep": timestep, "blocks": blocks, "condition": condition}
    options = {key: str(value) for key, value in named.items() if value is not None}
    request = Request(
        backbone=backbone,
        dataset=dataset,
        protocol=protocol,
        head=head,
        checkpoint=checkpoint,
        random=_wants_random(weights),
        accept_license=accept_license,
        options=options | _pairs(option or []),
        plan=_plan(protocol, {"shots": shots, "draws": draws}, folds, seed),
        recipe={key: value for key, value in recipe.items() if value is not None},
        ttt=_adaptation(ttt, ttt_option or []),
        view=view,
        input_px=input_px,
        precision=precision,
        device=device,
        limit=limit,
    )
    asked = board.BoardOptions(ci=ci, resamples=resamples)
    board.check(asked)
    places = Places(results, data, cache_root() if cache else None)
    with progress(quiet=as_json) as report:
        plain = execute(replace(request, ttt=None), places, report) if ttt else None
        outcome = execute(request, places, report, force=force, save_masks=save_masks)
    told = board.scores(outcome.record, board.counted(outcome.record), asked)
    gained = plain and {name: board.difference(outcome.record, plain.record, name) for name in told}
    if as_json:
        document = display.run_json(outcome.record, told, outcome.context)
        if gained is not None:
            document["minus_without_ttt"] = display.differences_json(gained)
        print(json.dumps(document))
        return
    out.print(display.run_table(outcome.record, told))
    if gained is not None:
        title = "minus the same run without test-time training, paired by patient"
        out.print(display.difference_table(title, gained))
    for line in display.run_notes(outcome, Store(results).folder(outcome.record.run_id)):
        out.print(line, markup=False, highlight=False)


def _wants_random(weights: str) -> bool:
    if weights not in ("released", "random"):
        raise BenchError(
            f"--weights {weights!r} is not released or random; for a file: --checkpoint"
        )
    return weights == "random"


def _adaptation(ttt: bool, options: list[str]) -> Adaptation | None:
    from bench.adapt import Adaptation

    if options and not ttt:
        raise BenchError("--ttt-option without --ttt: add --ttt.")
    return Adaptation.parse(_pairs(options)) if ttt else None


def _plan(protocol: str, given: dict[str, int | None], folds: int, seed: int) -> PlanOptions:
    """Take the options that are given; refuse those that the protocol does not read."""
    from bench import registry

    read = registry.get("protocols", protocol).options
    known = {name: value for name, value in given.items() if value is not None}
    foreign = [f"--{name}" for name in known if name not in read]
    if foreign:
        raise BenchError(f"the protocol {protocol!r} takes no {' or '.join(foreign)}.")
    return PlanOptions(folds=folds, seed=seed, **known)


def _pairs(options: list[str]) -> dict[str, str]:
    wrong = [each for each in options if "=" not in each]
    if wrong:
        raise BenchError(f"--option {wrong[0]!r}: write KEY=VALUE.")
    return {key: value for key, _, value in (each.partition("=") for each in options)}


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Argument(help="backbones, heads, datasets, ...")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List what can be named: backbones, heads, data sets, protocols, metrics, leaderboards."""
    from bench import listing, registry, tables

    if kind is not None and kind not in registry.KINDS:
        raise BenchError(f"unknown kind {kind!r}. Choose one of {', '.join(registry.KINDS)}.")
    told = {each: listing.rows(each, data) for each in ([kind] if kind else registry.KINDS)}
    broken = [vars(each) for each in registry.broken() if kind in (None, each.kind)]
    if as_json:
        print(json.dumps({**told, "broken": broken}))
        return
    for each, rows in told.items():
        if rows:
            out.print(tables.plugins_table(each, rows, out.width))
    for each in broken:
        err.print(f"broken: {each['name']} of {each['origin']}: {each['reason']}", markup=False)


@app.command()
def describe(
    backbones: Annotated[
        list[str] | None, typer.Argument(help="Names of backbones.", show_default=False)
    ] = None,
    head: Annotated[str | None, typer.Option(help="Default: the backbone's own.")] = None,
    cond_dim: Annotated[int | None, typer.Option(help="CMD: width of the condition.")] = None,
    timestep: Annotated[
        int | None, typer.Option(help="CMD: the time step of the features.")
    ] = None,
    blocks: Annotated[str | None, typer.Option(help="CMD: decoder blocks to take.")] = None,
    option: BackboneOptions = None,
    table: Annotated[
        int | None, typer.Option(help="Every model of this table of the paper, beside its sizes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count backbones and their heads, and tell what is known of them; nothing is downloaded."""
    from bench import describe as counted
    from bench import tables

    if (table is None) == (not backbones):
        raise BenchError("name backbones (see `bench list backbones`), or --table 4: one of both.")
    if table is not None:
        with progress(quiet=as_json) as report:
            rows = counted.beside_paper(table, report)
    else:
        named = {"cond_dim": cond_dim, "timestep": timestep, "blocks": blocks}
        options = {key: str(value) for key, value in named.items() if value is not None}
        options |= _pairs(option or [])
        rows = [counted.describe(each, head, options) for each in backbones or []]
    if as_json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    for each in tables.described(rows, out.width):
        out.print(each, markup=False, highlight=False)


@app.command()
def doctor(data: Data = None, results: Results = Path("results"), as_json: Json = False) -> None:
    """Check this machine: Python, torch, GPU, disk, data sets, plug-ins, hub token."""
    from bench import tables
    from bench.doctor import examine

    findings = examine(data, results)
    if as_json:
        print(json.dumps([vars(each) for each in findings]))
    else:
        out.print(tables.fields_table("doctor", [vars(each) for each in findings]))
    if any(not each.ok for each in findings):
        raise typer.Exit(1)
