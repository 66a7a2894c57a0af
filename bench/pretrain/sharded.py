"""Checkpoints of sharded networks: a folder into which each process writes its part.

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
from bench.models.load import FILE_OF_A_FOLDER
from bench.pretrain.distributed import ProcessGroup
from bench.store.files import write_bytes

if TYPE_CHECKING:
    from bench.pretrain.state import State

METADATA = "about.json"


def save(path: Path, state: State, metadata: Mapping[str, object], processes: ProcessGroup) -> None:
    """Write a folder, which is renamed when it is complete; every process must call this."""
    unfinished = path.with_name(f".{path.name}")
    if processes.is_main:
        for old in path.parent.glob(".step-*"):
            shutil.rmtree(old)
    processes.barrier()
    save_parts(_parts(state), checkpoint_id=unfinished)
    weights = full_state_dict(state.average)
    if processes.is_main:
        write_bytes(unfinished / FILE_OF_A_FOLDER, safetensors.torch.save(weights))
        write_bytes(unfinished / METADATA, json.dumps(metadata).encode())
        unfinished.rename(path)
    processes.barrier()


def read(path: Path) -> object:
    """Read the metadata saved next to the weights.

    Raises:
        BenchError: it is missing or damaged.
    """
    try:
        return json.loads((path / METADATA).read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"the checkpoint {path} is damaged ({error}).") from error


def restore(path: Path, state: State) -> None:
    """Load the weights and the optimiser of a checkpoint into a state, in place."""
    parts = _parts(state)
    load_parts(parts, checkpoint_id=path)
    states.set_model_state_dict(state.average, parts["model"])
    states.set_state_dict(
        state.network,
        state.optimizer,
        model_state_dict=parts["network"],
        optim_state_dict=parts["optimizer"],
    )


def full_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Gather the weights of a network, sharded or not, on the CPU of the main process.

    Every process must call this; the other processes receive an empty dictionary.
    """
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = states.get_model_state_dict(network, options=options)
    return {name: each.contiguous() for name, each in gathered.items() if isinstance(each, Tensor)}


def _parts(state: State) -> dict:
    network, optimizer = states.get_state_dict(state.network, state.optimizer)
    average = states.get_model_state_dict(state.average)
    return {"model": average, "network": network, "optimizer": optimizer}
