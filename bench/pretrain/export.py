"""The averaged weights as a file that `bench run --checkpoint` reads, and a card beside them.

Neither holds a time or a path, so the same training gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench import __version__
from bench.pretrain.job import Job
from bench.pretrain.settings import Settings
from bench.pretrain.tiles import sources
from bench.pretrain.trainer import Outcome
from bench.store import write_bytes
from bench.weights import FILE_OF_A_FOLDER

CARD = "card.json"
READ_BY = ("arch", "space", "vae", "crop_px")  # settings that tell how the weights are read


def export(job: Job, outcome: Outcome) -> dict[str, object]:
    """Write model.safetensors and card.json; give the card.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    kind = torch.bfloat16 if job.routine.export == "bf16" else torch.float32
    weights = {n: w.to(kind) if w.is_floating_point() else w for n, w in outcome.weights.items()}
    content = safetensors.torch.save(weights)
    card = _card(job, outcome, hashlib.sha256(content).hexdigest())
    write_bytes(job.out / FILE_OF_A_FOLDER, content)
    write_bytes(job.out / CARD, (json.dumps(card, indent=2) + "\n").encode())
    return card


def command(card: Mapping[str, Any], checkpoint: str) -> str:
    """Tell the `bench run` that reads weights as they were trained.

    Args:
        card: of the weights.
        checkpoint: where they lie.
    """
    settings, random = card["settings"], str(card.get("condition_weights")).startswith("random:")
    known = {name: settings[name] for name in READ_BY if name in settings}
    own = Settings(card["architecture"], **known)
    words = ["bench", "run", "--backbone", card["architecture"], "--checkpoint", checkpoint]
    if card["condition"] != "none":
        words += ["--condition", card["condition"] + ("@random" if random else "")]
    for name, value in own.reading().items():
        words += ["--option", f"{name}={value}"]
    if own.side != own.crop_px:
        words += ["--input-px", str(own.side)]
    return shlex.join(words)


def _probe(job: Job, outcome: Outcome) -> dict[str, object] | None:
    if outcome.probe_dice is None:
        return None
    return {"dataset": job.routine.probe, "protocol": "linear-probe", "dice": outcome.probe_dice}


def _commit() -> str | None:
    """Name the commit of the checkout that this code lies in; None where it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        told = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _without_paths(settings: Mapping[str, Any]) -> dict[str, str]:
    """Give the settings that may name a file without its path, which tells of the machine."""
    return {
        "condition": settings["condition"].partition("@")[0],
        "vae": Path(settings["vae"]).name,
        "init": Path(settings["init"]).name,
    }


def _card(job: Job, outcome: Outcome, weights_sha256: str) -> dict[str, object]:
    conditioner, settings = job.conditioner, asdict(job.settings)
    return {
        "architecture": job.settings.backbone,
        "parameters": sum(each.numel() for each in job.network.parameters()),
        "cond_dim": None if conditioner is None else conditioner.width,
        **({"condition": "none"} if conditioner is None else conditioner.facts),
        "init": job.identity["init"] or "random",
        "weights": f"exponential moving average, decay {job.settings.ema}, {job.routine.export}",
        "weights_sha256": weights_sha256,
        "steps": outcome.step,
        "loss": outcome.loss,
        "held_out": None if outcome.scores is None else asdict(outcome.scores),
        "probe": _probe(job, outcome),
        "images": {
            "trained_on": len(job.tiles),
            "held_out": len(job.held_out),
            "sources": sources([*job.tiles, *job.held_out]),
            "list_sha256": job.identity["images"],
            "refused": sorted(outcome.refused),
        },
        "settings": settings | _without_paths(settings),
        "tuned": outcome.tuned,
        "bench": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
    }
