"""`bench pretrain`: train the network of a backbone by masked diffusion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from bench.cli.console import Json, note, out, progress, stop_signals
from bench.cli.options import options_of
from bench.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from bench.pretrain.job import PretrainJob
    from bench.pretrain.trainer import TrainingOutcome


@options_of(PretrainConfig)
def pretrain(config: PretrainConfig, as_json: Json = False) -> None:
    """Pretrain a network to reconstruct masked images, and write weights for `bench run`.

    The same command resumes from the last checkpoint; Ctrl-C and SIGTERM write one before they end
    the training. To train in several processes, run `torchrun --nproc-per-node N -m bench pretrain`
    with the same options.
    """
    from bench import registry
    from bench.models.load import accepting
    from bench.pretrain.distributed import exit_now, init_processes, main_process_first
    from bench.pretrain.hub_upload import refuse_unless_allowed
    from bench.pretrain.job import alone_in, prepare
    from bench.pretrain.trainer import train
    from bench.runs.resolve import device_named

    config.check()
    with (
        accepting(config.accept_license),
        init_processes(device_named(config.device)) as processes,
        ExitStack() as lock,
    ):
        with main_process_first(processes):
            if processes.is_main:
                lock.enter_context(alone_in(config.out))
            if config.push_to_hub and processes.is_main:
                refuse_unless_allowed(config.push_to_hub, config.license)
            job = prepare(registry.get("backbones", config.backbone), config)
        for text in job.notes if processes.is_main else ():
            note(text)
        with progress(as_json or not processes.is_main) as report, stop_signals() as stop:
            outcome = train(job, report, stop)
            exit_code = stop()
        if processes.is_main:
            _finish(job, outcome, as_json)
    if not outcome.finished:
        raise typer.Exit(exit_code)
    if processes.size > 1:
        exit_now()


def _finish(job: PretrainJob, outcome: TrainingOutcome, as_json: bool) -> None:
    """Export and upload the weights of a finished training, and print the result."""
    from bench.pretrain.export import export
    from bench.pretrain.hub_upload import publish

    card = export(job, outcome) if outcome.finished else None
    config, url = job.config, None
    if config.push_to_hub and card is not None:
        url = publish(
            config.out, config.push_to_hub, license=config.license, private=not config.public
        )
    if as_json:
        print(json.dumps(_json(job, outcome, card) | {"hub": url}))
        return
    for line in [*_lines(job, outcome, card), *([f"uploaded: {url}"] if url else [])]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _json(
    job: PretrainJob, outcome: TrainingOutcome, card: dict[str, object] | None
) -> dict[str, object]:
    return {
        "out": str(job.config.out),
        "step": outcome.step,
        "finished": outcome.finished,
        "loss": outcome.loss,
        "held_out": None if outcome.scores is None else asdict(outcome.scores),
        "probe_dice": outcome.probe_dice,
        "refused": outcome.refused,
        "notes": job.notes,
        "card": card,
    }


def _lines(
    job: PretrainJob, outcome: TrainingOutcome, card: dict[str, object] | None
) -> Iterator[str]:
    """Yield the lines that describe how a training ended."""
    from bench.pretrain.export import command

    if not outcome.finished:
        yield f"stopped after step {outcome.step}; the same command resumes from there."
    elif outcome.begun == outcome.step:
        yield f"all {outcome.step} steps were done before; a larger --steps resumes from there."
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
        yield f"linear probe on {job.config.probe}: dice {outcome.probe_dice:.3f}"
    for reason in outcome.refused.values():
        yield f"not used: {reason}"
    if card is not None:
        yield f"weights: {job.config.out / 'model.safetensors'}. To evaluate them:"
        yield f"  {command(card, str(job.config.out))}"
