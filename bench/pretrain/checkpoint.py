"""Checkpoints: everything that a run needs to go on as if it had never stopped.

Randomness is a function of the seed and the number of the step, so the step stands for the state of
every generator and for the place in the order of the images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from bench.checkpoints import read_container
from bench.errors import BenchError
from bench.pretrain import sharded
from bench.pretrain.distributed import World
from bench.store import write_stream

FORMAT = 2
COPIES = 4  # of every weight: itself, its average and the two moments of AdamW
BYTES = 4  # of a float32


@dataclass
class State:
    """What changes while a network is trained.

    Attributes:
        step: how many steps are done.
        average: the network with the averaged weights.
        refused: the tiles that could not be used, with the reason.
        tuned: the settings that may change, each time with the number of steps done before.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    tuned: list[dict[str, object]] = field(default_factory=list)

    def tune(self, settings: Mapping[str, object]) -> None:
        """Train on with these settings of `TUNED`; `lr` is the optimiser's."""
        asked = dict(settings)
        if not self.tuned or self.tuned[-1] != asked | {"after": self.tuned[-1]["after"]}:
            self.tuned = [each for each in self.tuned if each["after"] != self.step]
            self.tuned.append(asked | {"after": self.step})
        for group in self.optimizer.param_groups:
            group["lr"] = asked["lr"]


@dataclass(frozen=True)
class Form:
    """How checkpoints are kept.

    Attributes:
        identity: what must be the same for a run to go on.
        keep: how many checkpoints are left; 0 leaves all.
        sharded: whether each process writes its own part, into a folder.
    """

    identity: Mapping[str, object]
    keep: int = 0
    sharded: bool = False


def save(folder: Path, state: State, form: Form, among: World) -> None:
    """Write the checkpoint of a step, whole or not at all; then delete the oldest ones.

    It is readable as weights, the averaged ones: a file has them under "model", a folder in
    model.safetensors. Every process calls this.

    Raises:
        BenchError: the folder cannot be written to, or the disk is full.
    """
    kept = {
        "format": FORMAT,
        "step": state.step,
        "identity": json.dumps(form.identity, sort_keys=True),
        "refused": state.refused,
        "tuned": state.tuned,
    }
    path = folder / f"step-{state.step:08d}"
    if form.sharded:
        sharded.save(path, state, kept, among)
    elif among.leads:
        parts = {name: part.state_dict() for name, part in _parts(state).items()}
        write_stream(path.with_suffix(".pt"), lambda file: _write(kept | parts, file))
    if among.leads:
        for old in all_of(folder)[: -form.keep] if form.keep else ():
            remove(old)


def restore(path: Path, state: State, form: Form) -> None:
    """Put a checkpoint into a state, in place.

    Raises:
        BenchError: it is damaged, or the checkpoint of another run, or of another form.
    """
    if path.is_dir() != form.sharded:
        cure = "add --shard" if path.is_dir() else "leave --shard out"
        raise BenchError(f"{path} was written in another form: {cure}, or use another --out.")
    try:
        content = sharded.read(path) if form.sharded else read_container(path)
    except BenchError as error:
        raise BenchError(f"{error} Or delete it: the run goes on from the one before.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BenchError(
            f"{path} is not a checkpoint that this version of bench reads. Use another --out."
        )
    _refuse_another_run(path, json.loads(content["identity"]), form.identity)
    try:
        if form.sharded:
            sharded.restore(path, state)
        else:
            for name, part in _parts(state).items():
                part.load_state_dict(content[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise BenchError(
            f"{path} does not fit the network of {form.identity['backbone']}, which has changed "
            f"since: {str(error).splitlines()[0]} Use another --out."
        ) from error
    state.step, state.refused = content["step"], dict(content["refused"])
    state.tuned = list(content["tuned"])


def _parts(state: State) -> dict[str, nn.Module | torch.optim.Optimizer]:
    return {"model": state.average, "network": state.network, "optimizer": state.optimizer}


def all_of(folder: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.stem)


def size_of(path: Path) -> int:
    """Give the bytes of a checkpoint, a file or a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)


def remove(path: Path) -> None:
    """Delete a checkpoint, a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def refuse_a_full_disk(folder: Path, weights: int, checkpoints: int) -> None:
    """Raise a BenchError where so many checkpoints of so many weights, and the export, do not fit.

    Args:
        checkpoints: how many will lie there at a time, those that are there already included.
    """
    there = sum(size_of(each) for each in all_of(folder))
    needed = weights * BYTES * (COPIES * checkpoints + 1) - there
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise BenchError(
            f"{checkpoints} checkpoints of {weights * BYTES * COPIES / 2**30:.1f} GiB each and the "
            f"weights need {needed / 2**30:.1f} GiB more, and {place} has {free / 2**30:.1f} GiB "
            "free. Keep fewer (--keep 1), or choose an --out with more room."
        )


def _write(content: Mapping[str, object], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch says so when the file refuses some bytes
        raise OSError(str(error.__context__ or error)) from error


def _refuse_another_run(
    path: Path, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    known = json.loads(json.dumps(now))  # as it would be read back: tuples become lists
    names = [name for name in {**before, **known} if before.get(name) != known.get(name)]
    if names:
        told = [f"{name}: {before.get(name)} there, {known.get(name)} asked" for name in names]
        raise BenchError(
            f"{path} was trained otherwise: {'; '.join(told)}. Give the same settings to go on, or "
            "another --out to begin anew."
        )
