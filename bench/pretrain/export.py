"""Export the averaged weights for `bench run --checkpoint`, with a card that describes them.

Neither file contains a time or a path, so the same training gives the same bytes.
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
from bench.models.load import FILE_OF_A_FOLDER
from bench.pretrain.config import WeightsConfig
from bench.pretrain.job import PretrainJob
from bench.pretrain.tiles import sources
from bench.pretrain.trainer import TrainingOutcome
from bench.store.files import write_bytes

CARD = "card.json"
READING_SETTINGS = ("arch", "space", "vae", "crop_px")  # that determine how weights are loaded


def export(job: PretrainJob, outcome: TrainingOutcome) -> dict[str, object]:
    """Write model.safetensors and card.json, and return the card.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    dtype = torch.bfloat16 if job.config.export == "bf16" else torch.float32
    weights = {n: w.to(dtype) if w.is_floating_point() else w for n, w in outcome.weights.items()}
    content = safetensors.torch.save(weights)
    card = _card(job, outcome, hashlib.sha256(content).hexdigest())
    write_bytes(job.config.out / FILE_OF_A_FOLDER, content)
    write_bytes(job.config.out / CARD, (json.dumps(card, indent=2) + "\n").encode())
    return card


def command(card: Mapping[str, Any], checkpoint: str) -> str:
    """Return the `bench run` command that loads weights as they were trained.

    Args:
        card: the card of the weights.
        checkpoint: the path of the weights or of their folder.
    """
    saved = card["settings"]
    options = {name: saved[name] for name in READING_SETTINGS if name in saved}
    config = WeightsConfig(backbone=card["architecture"], **options)
    words = ["bench", "run", "--backbone", card["architecture"], "--checkpoint", checkpoint]
    if card["condition"] != "none":
        weights = str(card.get("condition_weights"))  # of random weights: random:SEED
        source = f"@{weights.removesuffix(':0')}" if weights.startswith("random:") else ""
        words += ["--condition", card["condition"] + source]
    for name, value in config.backbone_options().items():
        words += ["--option", f"{name}={value}"]
    if config.input_px is not None:
        words += ["--input-px", str(config.input_px)]
    return shlex.join(words)


def _commit() -> str | None:
    """Return the git commit of the checkout that contains this code; None if it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        result = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _without_paths(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that may contain a path, without the path, which may identify people."""
    return {
        "condition": settings["condition"].partition("@")[0],
        "vae": Path(settings["vae"]).name,
        "init": Path(settings["init"]).name,
    }


def _card(job: PretrainJob, outcome: TrainingOutcome, weights_sha256: str) -> dict[str, object]:
    conditioner, settings = job.conditioner, job.config.weight_settings()
    probe = None
    if outcome.probe_dice is not None:
        probe = {"dataset": job.config.probe, "protocol": "linear-probe"}
        probe |= {"dice": outcome.probe_dice}
    return {
        "architecture": job.config.backbone,
        "parameters": sum(weight.numel() for weight in job.network.parameters()),
        "cond_dim": None if conditioner is None else conditioner.width,
        **({"condition": "none"} if conditioner is None else conditioner.facts),
        "init": job.identity["init"] or "random",
        "weights": f"exponential moving average, decay {job.config.ema}, {job.config.export}",
        "weights_sha256": weights_sha256,
        "steps": outcome.step,
        "loss": outcome.loss,
        "held_out": None if outcome.scores is None else asdict(outcome.scores),
        "probe": probe,
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
