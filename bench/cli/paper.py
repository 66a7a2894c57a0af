"""`bench reproduce`: rerun the rows of a table of the paper."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api import PlanOptions, Recipe
from bench.cli.console import Data, Json, Results, asked_to_stop, note, out, progress, show

if TYPE_CHECKING:
    from bench.paper.study import Study


WIDTH = 150  # columns of the tables if the output is not a terminal


def reproduce(
    table: Annotated[str, typer.Option(help="4, 5, 6, 7 or C1 of the paper.")],
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder of weights: NAME.safetensors, or folders written by `bench pretrain`; CMD "
            "names include the steps, as in cmd-l-80k."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this method, named as printed; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the commands and obstacles; run nothing.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs; default: from the recipes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Smoke run on N images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Run the rows of a table of the paper, and compare the scores with the printed ones.

    The exit code is 1 if a run fails. Rows that cannot run here are listed and skipped.
    """
    from bench.paper import reproduce as reproduction
    from bench.paper.recipes import Scope, attempts
    from bench.runs.execute import Paths
    from bench.store.cache_dir import cache_root

    scope = Scope(data, checkpoints, tuple(only or ()), epochs, device, limit)
    number = table.upper()
    planned = attempts(number, scope)
    if not as_json:
        show(reproduction.plan_table(number, planned), width=WIDTH)
    if dry_run:
        outcomes = [reproduction.Result(attempt) for attempt in planned]
    else:
        with progress(quiet=as_json) as report:
            outcomes = reproduction.run(planned, Paths(results, data, cache_root()), report)
    if as_json:
        print(json.dumps(reproduction.as_json(number, outcomes)))
    elif dry_run:
        for attempt in planned:
            out.print(attempt.command, markup=False, highlight=False, soft_wrap=True)
    else:
        show(reproduction.result_table(number, outcomes), width=WIDTH)
    if any(outcome.failure for outcome in outcomes):
        raise typer.Exit(1)


def lint_published(
    paper: Annotated[
        str, typer.Argument(help="Name of a file in leaderboards/published.")
    ] = "cmd_paper",
    as_json: Json = False,
) -> None:
    """Check a paper's printed numbers for inconsistencies.

    Findings marked with ? make a number or its interval doubtful. The exit code is 0 either way.
    """
    from bench.paper.lint import lint
    from bench.paper.published import cells
    from bench.render import terminal

    printed = cells(paper)
    findings = lint(printed)
    if as_json:
        listed = [asdict(finding) | {"suspect": finding.suspect} for finding in findings]
        print(json.dumps({"paper": paper, "cells": len(printed), "findings": listed}))
        return
    rows = [
        {
            "table": finding.table,
            "": "?" if finding.suspect else "",
            "finding": finding.kind,
            "cells": len(finding.cells),
            "details": finding.says,
        }
        for finding in findings
    ]
    show(terminal.fields_table(f"{paper}: {len(printed)} printed cells", rows))
    doubtful = {cell for finding in findings if finding.suspect for cell in finding.cells}
    out.print(f"? {len(doubtful)} doubtful cells: marked in tables, and not used in any test.")


PLAN, RECIPE = PlanOptions(), Recipe()
OF_SCALE = "Default: from --scale."


def study(
    table: Annotated[int, typer.Option(help="Table 1, 2 or 3 of the paper.")],
    images: Annotated[
        Path, typer.Option(help="Pretraining images: a folder of images or tar shards.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Output folder for arms, runs and tables.")],
    scale: Annotated[
        str, typer.Option(help="mini (minutes to hours) or paper (its sizes and budget).")
    ] = "mini",
    backbone: Annotated[str | None, typer.Option(help=f"Backbone. {OF_SCALE}")] = None,
    steps: Annotated[int | None, typer.Option(help=f"Steps per arm. {OF_SCALE}")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Images per step. {OF_SCALE}")] = None,
    accumulate: Annotated[
        int, typer.Option(help="Gradient accumulation: number of parts of a batch.")
    ] = 1,
    lr: Annotated[float | None, typer.Option(help=f"Pretraining learning rate. {OF_SCALE}")] = None,
    ema: Annotated[
        float | None, typer.Option(help=f"Decay of the averaged weights. {OF_SCALE}")
    ] = None,
    crop_px: Annotated[
        int | None,
        typer.Option(help=f"Side of the crops; doubled for high resolution. {OF_SCALE}"),
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help=f"Frozen backbone, NAME or NAME@FILE. {OF_SCALE}")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="VAE of the arms that take latents.")] = None,
    held_out: Annotated[int, typer.Option(help="Number of validation images.")] = 16,
    datasets: Annotated[
        str | None, typer.Option(help="A,B,...; default: the paper's installed data sets.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="K folds over all images, by patient; 0: official split.")
    ] = PLAN.folds,
    epochs: Annotated[int, typer.Option(help="Epochs of the linear probe.")] = RECIPE.epochs,
    seed: Annotated[int, typer.Option(help="Seed of pretraining and probes.")] = 0,
    precision: Annotated[
        str | None, typer.Option(help=f"Pretraining precision: fp32 or bf16. {OF_SCALE}")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Pretrain and evaluate the arms of a table of the paper, and compare with its scores.

    An interrupted study resumes when the command is repeated. Tables that share --out share arms.
    """
    from bench.paper import study as studies
    from bench.paper import study_report, study_run
    from bench.pretrain.config import Settings
    from bench.store.files import write_bytes

    chosen = studies.table_numbered(table)
    sizes = {"backbone": backbone, "steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema}
    sizes |= {"crop_px": crop_px, "condition": condition, "precision": precision}
    overrides = {name: value for name, value in sizes.items() if value is not None}
    size = replace(studies.scale_of(scale, chosen), **overrides)
    names, missing = studies.chosen_datasets(datasets, data)
    config = studies.Study(
        table=chosen,
        common=Settings(
            backbone=size.backbone,
            batch_size=size.batch_size,
            accumulate=accumulate,
            lr=size.lr,
            ema=size.ema,
            precision=size.precision,
            condition=studies.chosen_condition(size.condition),
            vae=studies.chosen_vae(vae, chosen),
            seed=seed,
            crop_px=size.crop_px,
            held_out=held_out,
        ),
        routine=studies.routine(size.steps, workers, device),
        datasets=names,
        missing=missing,
        plan=PlanOptions(folds=folds, seed=seed),
        epochs=epochs,
        images=images,
        data=data,
        out=folder,
    )
    notes = study_run.rehearse(config)
    if missing:
        note(f"data sets not found and not evaluated: {', '.join(missing)}.")
    for text in notes:
        note(text)
    with progress(quiet=as_json) as report:
        with asked_to_stop() as stop:
            trained = study_run.pretrain(config, report, stop)
            exit_code = stop()
        if exit_code:
            _report_stop(config, len(trained), as_json)
            raise typer.Exit(exit_code)
        cells = study_run.evaluate(config, report)
    comparisons = study_run.compare(config, cells)
    findings = study_run.Findings(config, notes, trained, cells, comparisons)
    body, name = study_report.as_json(findings), f"table-{table}"
    write_bytes(folder / f"{name}.json", (json.dumps(body, indent=2) + "\n").encode())
    write_bytes(folder / f"{name}.md", study_report.markdown(findings).encode())
    if as_json:
        print(json.dumps(body))
        return
    saved = f"saved: {folder / name}.json and .md"
    show(
        *study_report.tables(findings),
        *study_report.lines(findings),
        saved,
        width=study_report.WIDTH,
    )


def _report_stop(study: Study, trained: int, as_json: bool) -> None:
    arms = [arm.name for arm in study.table.arms]
    if as_json:
        print(json.dumps({"finished": False, "trained": arms[:trained], "arms": arms}))
        return
    text = f"stopped with {trained} of {len(arms)} arms trained; repeat the command to resume."
    out.print(text, markup=False, highlight=False, soft_wrap=True)
