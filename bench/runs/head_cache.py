"""Cache of trained heads.

Runs with the same training share its head: with corrupted test images, on another data set, or with
test-time training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from bench.api import Progress, Trial
from bench.api.record import canonical
from bench.errors import Damaged
from bench.features.cache import OWNER, read_metadata
from bench.features.numerics import numerics
from bench.runs.resolve import ResolvedRun
from bench.store.files import Problem, write_bytes
from bench.training.fit import Fitted

FITTED = "fitted"  # metadata key: how the training ended, as JSON
LARGEST_BYTES = 64 << 20  # of heads that are cached without `large`
SCORING = ("metrics_version", "scored", "ttt", "repeat", "protocol")  # do not affect a training


def training_key(run: ResolvedRun, trial: Trial) -> str:
    """Return a key of everything that a training depends on."""
    facts = {
        "spec": {name: value for name, value in run.spec.to_json().items() if name not in SCORING},
        "train": trial.train,
        "seed": trial.seed,
        **numerics(run.runner.device),
    }
    return hashlib.sha256(canonical(facts)).hexdigest()[:32]


def save(path: Path, modules: Mapping[str, nn.Module], fitted: Fitted, *, large: bool) -> None:
    """Write the trained weights; do nothing if they exceed LARGEST_BYTES, unless `large`."""
    state = _state(modules)
    if large or sum(tensor.nbytes for tensor in state.values()) <= LARGEST_BYTES:
        metadata = {OWNER: path.stem, FITTED: json.dumps(vars(fitted))}
        write_bytes(path, safetensors.torch.save(state, metadata))


def load(path: Path, modules: Mapping[str, nn.Module]) -> Fitted | None:
    """Load trained weights, and return how their training ended.

    None if the file is missing, damaged, or of another training; the modules do not change then.
    """
    if not path.is_file():
        return None
    try:
        fitted = Fitted(**json.loads(read_metadata(path, path.stem)[FITTED]))
        state = safetensors.torch.load_file(path)
    except (Damaged, KeyError, ValueError, TypeError):
        return None
    expected = {name: tensor.shape for name, tensor in _state(modules).items()}
    if {name: tensor.shape for name, tensor in state.items()} != expected:
        return None
    for part, module in modules.items():
        prefix = f"{part}."
        saved = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        module.load_state_dict({**module.state_dict(), **saved})
    return fitted


def check(folder: Path, progress: Progress) -> Iterator[Problem]:
    """Check the size and the owner of every cached head."""
    files = sorted(folder.glob("*.safetensors"))
    for done, path in enumerate(files):
        progress("heads", done, len(files))
        if not is_cached(path):
            yield Problem(path, "is damaged or of another training", "delete it; it is recomputed")
    progress("heads", len(files), len(files))


def is_cached(path: Path) -> bool:
    """Return whether a file contains the head of the training that it is named after."""
    try:
        return FITTED in read_metadata(path, path.stem)
    except Damaged:
        return False


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the trainable weights and all buffers of the modules, prefixed by their names."""
    state: dict[str, Tensor] = {}
    for part, module in modules.items():
        frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
        for name, value in module.state_dict().items():
            if name not in frozen:
                state[f"{part}.{name}"] = value.detach().cpu().contiguous()
    return state
