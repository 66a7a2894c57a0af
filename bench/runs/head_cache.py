"""Heads that were trained before: the same training is never done twice, whatever is scored.

A run under a shift, on another data set or with test-time training takes the very head of the plain
run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bench.api import Trial
from bench.api.record import canonical
from bench.features.numerics import numerics
from bench.runs.resolve import ResolvedRun
from bench.store.files import write_bytes

DIGEST = "sha256"  # of the metadata: over the rest of it, and all names and tensors
OF = "of"  # of the metadata: the key of the training
LOSS = "loss"  # of the metadata: the mean training loss of the last epoch
LARGEST_BYTES = 64 << 20  # of what is kept without being asked
SCORING = ("metrics_version", "scored", "ttt", "repeat", "protocol")  # no part of a training


def training_key(job: ResolvedRun, trial: Trial) -> str:
    """Name a training by everything that it stands on."""
    facts = {
        "spec": {name: each for name, each in job.spec.to_json().items() if name not in SCORING},
        "train": trial.train,
        "seed": trial.seed,
        **numerics(job.runner.device),
    }
    return hashlib.sha256(canonical(facts)).hexdigest()[:32]


def keep(path: Path, modules: Mapping[str, nn.Module], loss: float, *, large: bool) -> None:
    """Write what was trained; nothing where it is large and that was not asked for."""
    state = _state(modules)
    if large or sum(each.nbytes for each in state.values()) <= LARGEST_BYTES:
        about = {OF: path.stem, LOSS: repr(loss)}
        write_bytes(path, safetensors.torch.save(state, {**about, DIGEST: _digest(about, state)}))


def recall(path: Path, modules: Mapping[str, nn.Module]) -> float | None:
    """Load what was trained, and give its loss; None, with nothing changed, where it is not kept.

    A damaged file, or one of another training, counts as none.
    """
    if not path.is_file():
        return None
    try:
        loss, state = _read(path)
    except (SafetensorError, OSError, ValueError):
        return None
    own = _state(modules)
    if {name: each.shape for name, each in own.items()} != {n: v.shape for n, v in state.items()}:
        return None
    for part, module in modules.items():
        named = {
            k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")
        }
        module.load_state_dict({**module.state_dict(), **named})
    return loss


def damage(path: Path) -> str:
    """Say what is wrong with a file that `keep` wrote; "" where nothing is."""
    try:
        _read(path)
    except (SafetensorError, OSError) as error:
        return f"cannot be read: {error}"
    except ValueError as error:
        return str(error)
    return ""


def _read(path: Path) -> tuple[float, dict[str, Tensor]]:
    """Give the loss and the weights in a file; a ValueError where they are not what was kept."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    if not about.keys() >= {OF, LOSS, DIGEST}:
        raise ValueError("does not say of which training it is: an older version wrote it")
    if about[OF] != path.stem:
        raise ValueError(f"holds the training {about[OF]}")
    state = safetensors.torch.load_file(path)
    if _digest({OF: about[OF], LOSS: about[LOSS]}, state) != about[DIGEST]:
        raise ValueError("does not have the checksum that it was written with")
    return float(about[LOSS]), state


def _digest(about: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    """Hash the weights, and of which training they are and its loss."""
    total = hashlib.sha256(canonical(about) + b"\0")
    for name in sorted(state):
        total.update(name.encode() + b"\0")
        total.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Name the weights that train and all buffers, of each module under its own word."""
    state: dict[str, Tensor] = {}
    for part, module in modules.items():
        frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
        for name, each in module.state_dict().items():
            if name not in frozen:
                state[f"{part}.{name}"] = each.detach().cpu().contiguous()
    return state
