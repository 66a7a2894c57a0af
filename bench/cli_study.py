"""`bench study`: a table of the paper again, at a size that one can afford."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.api import PlanOptions, Recipe
from bench.console import Data, Json, asked_to_stop, note, out, progress, show

if TYPE_CHECKING:
    from bench.study import Study

PLAN, RECIPE = PlanOptions(), Recipe()
OF_SCALE = "Default: the scale's."


def study(
    table: Annotated[int, typer.Option(help="Table 1, 2 or 3 of the paper.")],
    images: Annotated[
        Path, typer.Option(help="To pretrain on: a folder of images, or of tar shards.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Arms, runs and tables go here.")],
    scale: Annotated[
        str, typer.Option(help="mini: minutes to hours; paper: its sizes and budget.")
    ] = "mini",
    backbone: Annotated[str | None, typer.Option(help=OF_SCALE)] = None,
    steps: Annotated[int | None, typer.Option(help=f"Of each arm. {OF_SCALE}")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Images a step. {OF_SCALE}")] = None,
    accumulate: Annotated[
        int, typer.Option(help="Parts in which a batch goes through the network.")
    ] = 1,
    lr: Annotated[float | None, typer.Option(help=f"Of the pretraining. {OF_SCALE}")] = None,
    ema: Annotated[
        float | None, typer.Option(help=f"Decay of the averaged weights. {OF_SCALE}")
    ] = None,
    crop_px: Annotated[
        int | None,
        typer.Option(help="What an arm sees; a high-resolution arm twice that. " + OF_SCALE),
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help=f"A frozen backbone: NAME or NAME@FILE. {OF_SCALE}")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="Of the arms that see latents.")] = None,
    held_out: Annotated[int, typer.Option(help="Images kept for the validation.")] = 16,
    datasets: Annotated[
        str | None, typer.Option(help="A,B,...; default: those of the paper that are there.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="K folds over all images, by patient; 0: the official split.")
    ] = PLAN.folds,
    epochs: Annotated[int, typer.Option(help="Of the linear probe.")] = RECIPE.epochs,
    seed: Annotated[int, typer.Option(help="Seeds pretraining and probes.")] = 0,
    precision: Annotated[
        str | None, typer.Option(help=f"Of the pretraining: fp32 or bf16. {OF_SCALE}")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Pretrain the arms of a table of the paper, score each, and show its numbers beside ours.

    The same command again goes on where it was stopped; tables that share an --out share arms.
    """
    from bench import replicate, study_report
    from bench import study as studies
    from bench.pretrain.settings import Settings
    from bench.sheet import rich_table
    from bench.store import write_bytes

    chosen = studies.table_numbered(table)
    sizes = {"backbone": backbone, "steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema}
    sizes |= {"crop_px": crop_px, "condition": condition, "precision": precision}
    given = {name: value for name, value in sizes.items() if value is not None}
    size = replace(studies.scale_of(scale, chosen), **given)
    found, missing = studies.chosen_datasets(datasets, data)
    asked = studies.Study(
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
        datasets=found,
        missing=missing,
        plan=PlanOptions(folds=folds, seed=seed),
        epochs=epochs,
        images=images,
        data=data,
        out=folder,
    )
    notes = replicate.rehearse(asked)
    for each in [*_missing(asked), *notes]:
        note(each)
    with progress(quiet=as_json) as report:
        with asked_to_stop() as stop:
            trained = replicate.pretrain(asked, report, stop)
            exit_code = stop()
        if exit_code:
            _tell_of_stop(asked, len(trained), as_json)
            raise typer.Exit(exit_code)
        cells = replicate.evaluate(asked, report)
    compared = replicate.compare(asked, cells)
    findings = replicate.Findings(asked, notes, trained, cells, compared)
    told, name = study_report.as_json(findings), f"table-{table}"
    write_bytes(folder / f"{name}.json", (json.dumps(told, indent=2) + "\n").encode())
    write_bytes(folder / f"{name}.md", study_report.markdown(findings).encode())
    if as_json:
        print(json.dumps(told))
        return
    sheets = map(rich_table, study_report.sheets(findings))
    kept = f"kept: {folder / name}.json and .md"
    show(*sheets, *study_report.lines(findings), kept, width=study_report.WIDTH)


def _missing(study: Study) -> list[str]:
    return [f"not found, so not scored: {', '.join(study.missing)}."] if study.missing else []


def _tell_of_stop(study: Study, trained: int, as_json: bool) -> None:
    arms = [arm.name for arm in study.table.arms]
    if as_json:
        print(json.dumps({"finished": False, "trained": arms[:trained], "arms": arms}))
        return
    told = f"stopped with {trained} of {len(arms)} arms trained; the same command goes on."
    out.print(told, markup=False, highlight=False, soft_wrap=True)
