"""`bench pretrain`: train the network of a backbone by masked diffusion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.console import Json, asked_to_stop, err, out, progress

if TYPE_CHECKING:
    from bench.pretrain.job import Job
    from bench.pretrain.trainer import Outcome


def pretrain(
    images: Annotated[
        Path, typer.Option(help="A folder of images at any depth, or of tar shards.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Checkpoints, log, pictures and weights go here.")
    ],
    backbone: Annotated[str, typer.Option(help="The backbone to train.")] = "cmd-tiny",
    steps: Annotated[int, typer.Option(help="May be raised later.")] = 80_000,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    accumulate: Annotated[
        int, typer.Option(help="Parts in which a batch goes through the network.")
    ] = 1,
    lr: Annotated[float, typer.Option(help="AdamW, constant, without weight decay.")] = 3e-5,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights, a step.")] = 0.9999,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0: off.")] = 0.0,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 autocast.")] = "bf16",
    condition: Annotated[
        str, typer.Option(help="none, or a frozen backbone: NAME or NAME@FILE.")
    ] = "none",
    ssim_weight: Annotated[float, typer.Option(help="Of (1 - SSIM) / 2 beside L1.")] = 0.0,
    schedule: Annotated[
        str, typer.Option(help="Share of masked patches: t/(T+1) or t/T.")
    ] = "t/(T+1)",
    seed: Annotated[int, typer.Option(help="Seeds weights, images, crops and masks.")] = 0,
    crop_px: Annotated[int, typer.Option(help="Side of what the network sees.")] = 256,
    held_out: Annotated[int, typer.Option(help="Images kept for the validation.")] = 16,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only images in folders of this name; may be repeated."),
    ] = None,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 1000,
    keep: Annotated[int, typer.Option(help="Checkpoints that are kept; 0: all.")] = 3,
    picture_every: Annotated[int, typer.Option(help="Steps between pictures.")] = 1000,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compile: Annotated[bool, typer.Option(help="Use torch.compile.")] = False,
    as_json: Json = False,
) -> None:
    """Pretrain a network to reconstruct masked images, and write weights for `bench run`.

    The same command again goes on from the last checkpoint. Ctrl-C and SIGTERM write one first.
    """
    from bench import registry
    from bench.pretrain.export import export
    from bench.pretrain.job import prepare
    from bench.pretrain.settings import Routine, Settings
    from bench.pretrain.trainer import train

    settings = Settings(
        backbone=backbone,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        ema=ema,
        clip=clip,
        precision=precision,
        condition=condition,
        ssim_weight=ssim_weight,
        schedule=schedule,
        seed=seed,
        crop_px=crop_px,
        held_out=held_out,
        only=tuple(sorted(set(only or ()))),
    )
    routine = Routine(
        steps, save_every, picture_every, validate_every, keep, workers, device, compile
    )
    job = prepare(registry.get("backbones", backbone), settings, routine, images, folder)
    for note in job.notes:
        err.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    with progress(quiet=as_json) as report, asked_to_stop() as stop:
        outcome = train(job, report, stop)
        exit_code = stop()
    card = export(job, outcome) if outcome.finished else None
    if as_json:
        print(json.dumps(_json(job, outcome, card)))
    else:
        for line in _lines(job, outcome):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not outcome.finished:
        raise typer.Exit(exit_code)


def _json(job: Job, outcome: Outcome, card: dict[str, object] | None) -> dict[str, object]:
    return {
        "out": str(job.out),
        "step": outcome.step,
        "finished": outcome.finished,
        "loss": outcome.loss,
        "held_out": None if outcome.scores is None else asdict(outcome.scores),
        "refused": outcome.refused,
        "notes": job.notes,
        "card": card,
    }


def _lines(job: Job, outcome: Outcome) -> Iterator[str]:
    """Tell a person how a training ended."""
    if not outcome.finished:
        yield f"stopped after step {outcome.step}; the same command goes on from there."
    if outcome.loss is not None:
        last = min(100, outcome.step)
        yield f"step {outcome.step}: loss {outcome.loss:.4f} (mean of the last {last} steps)"
    if outcome.scores is not None:
        scores = outcome.scores
        yield (
            f"{len(job.held_out)} held-out images: L1 {scores.l1:.4f}, PSNR {scores.psnr:.2f} dB, "
            f"SSIM {scores.ssim:.4f}"
        )
    for reason in outcome.refused.values():
        yield f"not used: {reason}"
    if outcome.finished:
        condition = job.settings.condition
        more = "" if condition == "none" else f" --condition {condition}"
        yield f"weights: {job.out / 'model.safetensors'}. To compare them:"
        yield f"  bench run --backbone {job.settings.backbone} --checkpoint {job.out}{more}"
