"""One training in several processes, as `torchrun` starts them: who does what, and what they share.

Every process runs the same steps; each learns from its own part of a batch, and the first one alone
writes and speaks. Networks are copied (DDP) or sharded (FSDP2).
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def part(self, images: int) -> slice:
        """Say which of the images of a step this process learns from."""
        each = images // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """Average a scalar over all processes."""
        return self.total([float(value)])[0] / self.size if self.size > 1 else value

    def total(self, values: Sequence[float]) -> Tensor:
        """Add up numbers over all processes: (n,) float64."""
        summed = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            summed = summed.to(_own_device())
            dist.all_reduce(summed)
        return summed

    def gathered(self, value: dict[str, str]) -> dict[str, str]:
        """Unite the dictionaries of all processes."""
        if self.size == 1:
            return value
        found: list[dict[str, str]] = [{} for _ in range(self.size)]
        dist.all_gather_object(found, value)
        return {name: text for each in found for name, text in each.items()}

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """Give the processes that were joined; one alone otherwise."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` has started, by NCCL on GPUs and by gloo on CPUs.

    They leave together: `torchrun` would end a leader that still writes where another's threads
    fail at its exit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world()
        dist.barrier()
    finally:
        dist.destroy_process_group()


def leave() -> NoReturn:
    """End a process that was one of several, when all is written.

    Threads of a process group outlive it, and where one asks for Python while that is torn down,
    the process aborts (https://github.com/pytorch/pytorch/issues/190489): a training that ended
    well would count as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def leader_first(among: World) -> Iterator[None]:
    """Let the first process do a thing before the others: it downloads, and it complains alone."""
    if not among.leads:
        among.wait()
    yield
    if among.leads:
        among.wait()


def units(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a network: the members of its outermost `nn.ModuleList`s."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else units(child)


def recompute_activations(network: nn.Module) -> None:
    """Keep no activations inside blocks: they are computed again for the gradient (in place)."""
    for unit in units(network):
        unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)


def shard(network: nn.Module) -> None:
    """Shard the weights over the processes, block by block (FSDP2, in place).

    A block may return a view of a tensor, of which FSDP2 warns; the network must then not change it
    in place.
    """
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    network.to(memory_format=torch.contiguous_format)  # pyright: ignore  # it takes no other
    for unit in units(network):
        fully_shard(unit)
    fully_shard(network)


@contextmanager
def gradients_exchanged(network: nn.Module, exchanged: bool) -> Iterator[None]:
    """Exchange the gradients of a backward pass inside, or leave them in each process."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        with nullcontext() if exchanged else network.no_sync():
            yield
        return
    sharded = getattr(network, "set_requires_gradient_sync", None)  # of FSDP2's modules
    if sharded is not None:
        sharded(exchanged)
    yield


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Give the parts of tensors that lie in this process, sharing their memory."""
    return [getattr(each, "to_local", lambda own=each: own)() for each in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Give a tensor as it is without sharding; every process calls this."""
    return getattr(tensor, "full_tensor", lambda: tensor)()


def _own_device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
