"""Checkpoints of a training whose weights are sharded: a folder, each process its own part.

`torch.distributed.checkpoint` reads them with any number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from bench.errors import BenchError
from bench.pretrain.distributed import World
from bench.store import write_bytes
from bench.weights import FILE_OF_A_FOLDER

if TYPE_CHECKING:
    from bench.pretrain.checkpoint import State

ABOUT = "about.json"


def save(path: Path, state: State, about: Mapping[str, object], among: World) -> None:
    """Write a folder, which has its name only when it is whole; every process calls this."""
    unfinished = path.with_name(f".{path.name}")
    if among.leads:
        for old in path.parent.glob(".step-*"):
            shutil.rmtree(old)
    among.wait()
    save_parts(_parts(state), checkpoint_id=unfinished)
    weights = whole_weights(state.average)
    if among.leads:
        write_bytes(unfinished / FILE_OF_A_FOLDER, safetensors.torch.save(weights))
        write_bytes(unfinished / ABOUT, json.dumps(about).encode())
        unfinished.rename(path)
    among.wait()


def read(path: Path) -> object:
    """Read what is kept beside the weights.

    Raises:
        BenchError: it is missing or damaged.
    """
    try:
        return json.loads((path / ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"the checkpoint {path} is damaged ({error}).") from error


def restore(path: Path, state: State) -> None:
    """Put the weights and the optimiser of a checkpoint into a state, in place."""
    parts = _parts(state)
    load_parts(parts, checkpoint_id=path)
    states.set_model_state_dict(state.average, parts["model"])
    states.set_state_dict(
        state.network,
        state.optimizer,
        model_state_dict=parts["network"],
        optim_state_dict=parts["optimizer"],
    )


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """Gather the weights of a network on the CPU, sharded or not; only the first process has them.

    Every process calls this.
    """
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = states.get_model_state_dict(network, options=options)
    return {name: each.contiguous() for name, each in gathered.items() if isinstance(each, Tensor)}


def _parts(state: State) -> dict:
    network, optimizer = states.get_state_dict(state.network, state.optimizer)
    average = states.get_model_state_dict(state.average)
    return {"model": average, "network": network, "optimizer": optimizer}
