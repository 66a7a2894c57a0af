"""`bench pretrain`: train the network of a backbone by masked diffusion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import completion
from bench.cli.console import Data, Json, asked_to_stop, note, out, progress

if TYPE_CHECKING:
    from bench.pretrain.config import Routine, Settings
    from bench.pretrain.job import Job
    from bench.pretrain.trainer import Outcome


def pretrain(
    images: Annotated[
        Path, typer.Option(help="A folder of images at any depth, or of tar shards.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Checkpoints, log, pictures and weights go here.")
    ],
    backbone: Annotated[
        str, typer.Option(help="The backbone to train.", autocompletion=completion.backbones)
    ] = "cmd-tiny",
    steps: Annotated[int, typer.Option(help="May be raised later.")] = 80_000,
    batch_size: Annotated[int, typer.Option(help="Images a step, in all processes.")] = 32,
    accumulate: Annotated[
        int, typer.Option(help="Parts in which a batch goes through the network.")
    ] = 1,
    lr: Annotated[float, typer.Option(help="AdamW, constant, without weight decay.")] = 3e-5,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights, a step.")] = 0.9999,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0: off.")] = 0.0,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 autocast.")] = "bf16",
    arch: Annotated[
        str, typer.Option(help="CMD: convnext, dit or attention-unet (table 1).")
    ] = "convnext",
    space: Annotated[
        str, typer.Option(help="pixel, latent or latent-hires (table 2); latents need a VAE.")
    ] = "pixel",
    vae: Annotated[
        str, typer.Option(help="sd-vae, a folder in diffusers format, or random.")
    ] = "sd-vae",
    init: Annotated[
        str, typer.Option(help="Begin with these weights: a file, or a folder of a training.")
    ] = "",
    objective: Annotated[
        str, typer.Option(help="masked, ddpm or ddpm-epsilon (predicts the noise).")
    ] = "masked",
    condition: Annotated[
        str, typer.Option(help="none, or a frozen backbone: NAME or NAME@FILE.")
    ] = "none",
    accept_license: Annotated[
        bool,
        typer.Option("--accept-license", help="Fetch a condition of a licence not known here."),
    ] = False,
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
    probe: Annotated[
        str, typer.Option(help="A labelled data set: score a linear probe on it now and then.")
    ] = "",
    probe_every: Annotated[int, typer.Option(help="Steps between probes.")] = 10_000,
    data: Data = None,
    keep: Annotated[int, typer.Option(help="Checkpoints that are kept; 0: all.")] = 3,
    picture_every: Annotated[int, typer.Option(help="Steps between pictures.")] = 1000,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compile: Annotated[bool, typer.Option(help="Use torch.compile.")] = False,
    recompute: Annotated[
        bool, typer.Option(help="Activation checkpointing: less memory, a third more time.")
    ] = False,
    shard: Annotated[
        bool, typer.Option(help="Several processes: shard the weights (FSDP2), not copy (DDP).")
    ] = False,
    export: Annotated[
        str, typer.Option(help="Precision of the final weights: fp32, or bf16 of half the size.")
    ] = "fp32",
    track: Annotated[
        str, typer.Option(help="Also tell wandb, mlflow or trackio of each step; see the README.")
    ] = "",
    push_to_hub: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Upload weights, card and a page at the end.")
    ] = "",
    license: Annotated[str, typer.Option(help="Of the weights, for their page on the hub.")] = "",
    public: Annotated[bool, typer.Option(help="Let all see a new repository on the hub.")] = False,
    as_json: Json = False,
) -> None:
    """Pretrain a network to reconstruct masked images, and write weights for `bench run`.

    The same command again goes on from the last checkpoint. Ctrl-C and SIGTERM write one first.
    Several processes: `torchrun --nproc-per-node N -m bench pretrain ...`, with the same options.
    """
    from bench.models.load import accepting
    from bench.pretrain.config import Routine, Settings

    settings = Settings(
        backbone=backbone,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        ema=ema,
        clip=clip,
        precision=precision,
        arch=arch,
        space=space,
        vae=vae,
        objective=objective,
        init=init,
        condition=condition,
        ssim_weight=ssim_weight,
        schedule=schedule,
        seed=seed,
        crop_px=crop_px,
        held_out=held_out,
        only=tuple(sorted(set(only or ()))),
    )
    routine = Routine(
        steps=steps,
        save_every=save_every,
        picture_every=picture_every,
        validate_every=validate_every,
        keep=keep,
        workers=workers,
        device=device,
        compile=compile,
        recompute=recompute,
        shard=shard,
        export=export,
        probe=probe,
        probe_every=probe_every,
        data=data,
        track=track,
    )
    hub = Hub(push_to_hub, license, not public) if push_to_hub else None
    with accepting(accept_license):
        _pretrain(settings, routine, (images, folder), hub, as_json)


@dataclass(frozen=True)
class Hub:
    """Where finished weights are uploaded to."""

    repo: str
    license: str
    private: bool


def _pretrain(
    settings: Settings, routine: Routine, places: tuple[Path, Path], hub: Hub | None, as_json: bool
) -> None:
    """Train from the first place to the second; of several processes the first one speaks."""
    from bench import registry
    from bench.pretrain.distributed import exit_now, init_processes, main_process_first
    from bench.pretrain.hub_upload import refuse_unless_allowed
    from bench.pretrain.job import alone_in, prepare
    from bench.pretrain.trainer import train
    from bench.runs.resolve import device_named

    routine.check()
    with init_processes(device_named(routine.device)) as processes, ExitStack() as held:
        with main_process_first(processes):
            if processes.is_main:
                held.enter_context(alone_in(places[1]))
            if hub is not None and processes.is_main:
                refuse_unless_allowed(hub.repo, hub.license)
            backbone = registry.get("backbones", settings.backbone)
            job = prepare(backbone, settings, routine, *places)
        for each in job.notes if processes.is_main else ():
            note(each)
        with progress(as_json or not processes.is_main) as report, asked_to_stop() as stop:
            outcome = train(job, report, stop)
            exit_code = stop()
        if processes.is_main:
            _finish(job, outcome, hub, as_json)
    if not outcome.finished:
        raise typer.Exit(exit_code)
    if processes.size > 1:
        exit_now()


def _finish(job: Job, outcome: Outcome, hub: Hub | None, as_json: bool) -> None:
    """Write the weights of a finished training, upload them, and tell how it went."""
    from bench.pretrain.export import export
    from bench.pretrain.hub_upload import publish

    card = export(job, outcome) if outcome.finished else None
    address = None
    if hub is not None and card is not None:
        address = publish(job.out, hub.repo, license=hub.license, private=hub.private)
    if as_json:
        print(json.dumps(_json(job, outcome, card) | {"hub": address}))
        return
    for line in [*_lines(job, outcome, card), *([f"uploaded: {address}"] if address else [])]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _json(job: Job, outcome: Outcome, card: dict[str, object] | None) -> dict[str, object]:
    return {
        "out": str(job.out),
        "step": outcome.step,
        "finished": outcome.finished,
        "loss": outcome.loss,
        "held_out": None if outcome.scores is None else asdict(outcome.scores),
        "probe_dice": outcome.probe_dice,
        "refused": outcome.refused,
        "notes": job.notes,
        "card": card,
    }


def _lines(job: Job, outcome: Outcome, card: dict[str, object] | None) -> Iterator[str]:
    """Tell a person how a training ended."""
    from bench.pretrain.export import command

    if not outcome.finished:
        yield f"stopped after step {outcome.step}; the same command goes on from there."
    elif outcome.begun == outcome.step:
        yield f"all {outcome.step} steps were done before; a larger --steps goes on from there."
    if outcome.loss is not None:
        last = min(100, outcome.step)
        yield f"step {outcome.step}: loss {outcome.loss:.4f} (mean of the last {last} steps)"
    if outcome.scores is not None:
        scores = outcome.scores
        yield (
            f"{len(job.held_out)} held-out images: L1 {scores.l1:.4f}, PSNR {scores.psnr:.2f} dB, "
            f"SSIM {scores.ssim:.4f}"
        )
    if outcome.probe_dice is not None:
        yield f"linear probe on {job.routine.probe}: dice {outcome.probe_dice:.3f}"
    for reason in outcome.refused.values():
        yield f"not used: {reason}"
    if card is not None:
        yield f"weights: {job.out / 'model.safetensors'}. To compare them:"
        yield f"  {command(card, str(job.out))}"
