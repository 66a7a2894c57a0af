"""Cache of trained heads.

Runs with the same training share its head: with corrupted test images, on another data set, or with
test-time training.
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


def training_key(run: ResolvedRun, trial: Trial) -> str:
    """Return a key of everything that a training depends on."""
    facts = {
        "spec": {name: each for name, each in run.spec.to_json().items() if name not in SCORING},
        "train": trial.train,
        "seed": trial.seed,
        **numerics(run.runner.device),
    }
    return hashlib.sha256(canonical(facts)).hexdigest()[:32]


def save(path: Path, modules: Mapping[str, nn.Module], loss: float, *, large: bool) -> None:
    """Write the trained weights; do nothing if they exceed LARGEST_BYTES, unless `large`."""
    state = _state(modules)
    if large or sum(each.nbytes for each in state.values()) <= LARGEST_BYTES:
        about = {OF: path.stem, LOSS: repr(loss)}
        write_bytes(path, safetensors.torch.save(state, {**about, DIGEST: _digest(about, state)}))


def load(path: Path, modules: Mapping[str, nn.Module]) -> float | None:
    """Load trained weights, and return the training loss.

    None if the file is missing, damaged, or of another training; the modules do not change then.
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
    """Return what is wrong with a file that `save` wrote, or "" if it is intact."""
    try:
        _read(path)
    except (SafetensorError, OSError) as error:
        return f"cannot be read: {error}"
    except ValueError as error:
        return str(error)
    return ""


def _read(path: Path) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the weights of a file; raise a ValueError if it is damaged."""
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
    """Return the sha256 (hex) of the weights and of the metadata."""
    total = hashlib.sha256(canonical(about) + b"\0")
    for name in sorted(state):
        total.update(name.encode() + b"\0")
        total.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the trainable weights and all buffers of the modules, prefixed by their names."""
    state: dict[str, Tensor] = {}
    for part, module in modules.items():
        frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
        for name, each in module.state_dict().items():
            if name not in frozen:
                state[f"{part}.{name}"] = each.detach().cpu().contiguous()
    return state
