"""Training in several processes that `torchrun` starts.

Every process runs the same steps on a different part of each batch; only the main process (rank 0)
writes files and prints. Networks are replicated (DDP) or sharded (FSDP2).
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
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training, as seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def part(self, images: int) -> slice:
        """Return the slice of a batch of `images` images that this process trains on."""
        share = images // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, value: Tensor) -> Tensor:
        """Average a scalar over all processes."""
        return self.sum([float(value)])[0] / self.size if self.size > 1 else value

    def sum(self, values: Sequence[float]) -> Tensor:
        """Sum n numbers over all processes: (n,) float64."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            if dist.get_backend() == "nccl":
                total = total.to(torch.device("cuda", torch.cuda.current_device()))
            dist.all_reduce(total)
        return total

    def merge(self, texts: dict[str, str]) -> dict[str, str]:
        """Merge the dictionaries of all processes."""
        if self.size == 1:
            return texts
        gathered: list[dict[str, str]] = [{} for _ in range(self.size)]
        dist.all_gather_object(gathered, texts)
        return {name: text for part in gathered for name, text in part.items()}

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def current_processes() -> ProcessGroup:
    """Return the initialised process group, or a group of one process."""
    if dist.is_available() and dist.is_initialized():
        return ProcessGroup(dist.get_rank(), dist.get_world_size())
    return ProcessGroup()


@contextmanager
def init_processes(device: torch.device) -> Iterator[ProcessGroup]:
    """Initialise the process group of `torchrun`, with NCCL on GPUs and gloo on CPUs.

    The processes wait for each other at the end: if the threads of one fail at exit, `torchrun`
    would kill a main process that still writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield current_processes()
        dist.barrier()
    finally:
        dist.destroy_process_group()


def exit_now() -> NoReturn:
    """End one of several processes without running Python's cleanup, after all files are written.

    Threads of a process group outlive it and may abort the process while the interpreter shuts down
    (https://github.com/pytorch/pytorch/issues/190489), so a successful training would count as
    failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def main_process_first(processes: ProcessGroup) -> Iterator[None]:
    """Run the block in the main process first, so that only it downloads files."""
    if not processes.is_main:
        processes.barrier()
    yield
    if processes.is_main:
        processes.barrier()


def repeated_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of the outermost `nn.ModuleList`s of a network."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else repeated_blocks(child)


def recompute_activations(network: nn.Module) -> None:
    """Recompute the activations inside blocks in the backward pass (in place)."""
    for block in repeated_blocks(network):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def shard(network: nn.Module) -> None:
    """Shard the weights over the processes, block by block (FSDP2, in place).

    FSDP2 warns if a block returns a view of a tensor; the network must then not modify it in place.
    """
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    # FSDP2 supports no other memory format.
    network.to(memory_format=torch.contiguous_format)  # pyright: ignore
    for block in repeated_blocks(network):
        fully_shard(block)
    fully_shard(network)


@contextmanager
def gradient_sync(network: nn.Module, enabled: bool) -> Iterator[None]:
    """Average the gradients of a backward pass over the processes, or accumulate them locally."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        with nullcontext() if enabled else network.no_sync():
            yield
        return
    set_fsdp_sync = getattr(network, "set_requires_gradient_sync", None)
    if set_fsdp_sync is not None:
        set_fsdp_sync(enabled)
    yield


def local_shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of the tensors that are in this process; they share memory."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor without sharding; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
