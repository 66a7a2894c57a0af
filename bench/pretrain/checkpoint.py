"""Checkpoints, from which a run resumes exactly.

Random numbers and the order of the images depend on the seed and the step only, so a checkpoint
stores no generator state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from bench.errors import BenchError
from bench.models.checkpoints import all_of, read_container
from bench.pretrain import sharded
from bench.pretrain.distributed import ProcessGroup
from bench.pretrain.state import CheckpointFormat, State
from bench.store.files import write_stream

FORMAT = 2
COPIES = 4  # of every weight: itself, its average and the two moments of AdamW
BYTES = 4  # per float32


def save(folder: Path, state: State, format: CheckpointFormat, processes: ProcessGroup) -> None:
    """Write a checkpoint atomically, then delete the oldest ones; every process must call this.

    A checkpoint can be loaded as weights, the averaged ones: a file has them under "model", a
    folder in model.safetensors.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    metadata = {
        "format": FORMAT,
        "step": state.step,
        "identity": json.dumps(format.identity, sort_keys=True),
        "refused": state.refused,
        "tuned": state.tuned,
    }
    path = folder / f"step-{state.step:08d}"
    if format.sharded:
        sharded.save(path, state, metadata, processes)
    elif processes.is_main:
        parts = {name: part.state_dict() for name, part in _parts(state).items()}
        write_stream(path.with_suffix(".pt"), lambda file: _write(metadata | parts, file))
    if processes.is_main and format.keep:
        for old in all_of(folder)[: -format.keep]:
            remove(old)


def restore(path: Path, state: State, format: CheckpointFormat) -> None:
    """Load a checkpoint into a state, in place.

    Raises:
        BenchError: it is damaged, of a run with other settings, or sharded where `format` is not.
    """
    if path.is_dir() and not format.sharded:
        raise BenchError(f"{path} is sharded: add --shard, or use another --out.")
    if format.sharded and not path.is_dir():
        raise BenchError(f"{path} is not sharded: omit --shard, or use another --out.")
    try:
        content = sharded.read(path) if format.sharded else read_container(path)
    except BenchError as error:
        raise BenchError(f"{error} Or delete it to resume from the one before.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BenchError(
            f"{path} is not a checkpoint that this version of bench can read. Use another --out."
        )
    _check_identity(path, json.loads(content["identity"]), format.identity)
    try:
        if format.sharded:
            sharded.restore(path, state)
        else:
            for name, part in _parts(state).items():
                part.load_state_dict(content[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise BenchError(
            f"{path} does not fit the network of {format.identity['backbone']}, which has changed "
            f"since then: {str(error).splitlines()[0]} Use another --out."
        ) from error
    state.step, state.refused = content["step"], dict(content["refused"])
    state.tuned = list(content["tuned"])


def _parts(state: State) -> dict[str, nn.Module | torch.optim.Optimizer]:
    return {"model": state.average, "network": state.network, "optimizer": state.optimizer}


def size_of(path: Path) -> int:
    """Return the size of a checkpoint, a file or a folder, in bytes."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    """Delete a checkpoint, a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def refuse_a_full_disk(folder: Path, weights: int, checkpoints: int) -> None:
    """Raise a BenchError if the checkpoints and the exported weights do not fit on the disk.

    Args:
        weights: number of weights of the network.
        checkpoints: largest number of checkpoints at a time, including existing ones.
    """
    existing = sum(size_of(path) for path in all_of(folder))
    needed = weights * BYTES * (COPIES * checkpoints + 1) - existing
    parent = folder.resolve()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise BenchError(
            f"{checkpoints} checkpoints of {weights * BYTES * COPIES / 2**30:.1f} GiB each and "
            f"the exported weights need {needed / 2**30:.1f} GiB more, but {parent} has "
            f"{free / 2**30:.1f} GiB free. Keep fewer (--keep 1), or use another --out."
        )


def _write(content: Mapping[str, object], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # what torch makes of an OSError
        raise OSError(str(error.__context__ or error)) from error


def _check_identity(path: Path, saved: Mapping[str, object], current: Mapping[str, object]) -> None:
    current = json.loads(json.dumps(current))  # as it was saved: tuples become lists
    names = [name for name in {**saved, **current} if saved.get(name) != current.get(name)]
    if names:
        changes = [f"{name} was {saved.get(name)}, now {current.get(name)}" for name in names]
        raise BenchError(
            f"{path} has other settings: {'; '.join(changes)}. Use the same settings to resume, or "
            "another --out to start a new run."
        )
