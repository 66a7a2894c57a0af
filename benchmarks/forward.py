"""Which form of an extractor's forward pass is the fastest here: ours beside others of the same.

    OMP_NUM_THREADS=1 python benchmarks/forward.py --backbone cmd-tiny

Of CMD: as it is (channels last in memory, pointwise layers as matrix products, no tail for
features); with the tail and its image; in the usual order of memory; with pointwise layers as 1x1
convolutions; and what torch.compile makes of it. Of a ViT: as it is, its weights channels last, and
compiled. The maps of each are compared with ours before any time counts, all are timed in turn
(A B, B A), and the speed is told beside that of a large matrix product.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from versus import Out, keep, machine, show

from bench.errors import BenchError
from bench.models.load import open_backbone
from bench.pretrain import flops
from bench.training.malloc import keep_freed_memory

SIDE = 2048  # of the matrix product
SAME = 1e-4  # of the largest value of a map
Form = Callable[[Tensor], Sequence[Tensor]]


class Pointwise(nn.Module):
    """A linear layer over the last dimension of (N, H, W, C), as a 1x1 convolution."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        weight = self.linear.weight[:, :, None, None]
        return F.conv2d(x.permute(0, 3, 1, 2), weight, self.linear.bias).permute(0, 2, 3, 1)


def forms(extractor: nn.Module, compiled: bool) -> dict[str, Form]:
    """Give forms that are equal but for rounding, ours first."""
    found: dict[str, Form] = {"ours": extractor}
    network = getattr(extractor, "network", None)
    if network is None:
        last = copy.deepcopy(extractor).to(memory_format=torch.channels_last)  # pyright: ignore
        found["weights channels last"] = last
    else:
        found |= {
            "with the tail": _with_tail(extractor),
            "usual order of memory": _contiguous(copy.deepcopy(extractor)),
            "pointwise as convolution": _convolving(copy.deepcopy(extractor)),
        }
    if compiled:
        found["compiled"] = torch.compile(copy.deepcopy(extractor))
    return found


def _with_tail(extractor: Any) -> Form:
    """Make the image too, as the network's own forward does."""

    def forward(images: Tensor) -> Sequence[Tensor]:
        network, maps = extractor.network, extractor(images)
        t = torch.full((len(images),), extractor.reading.timestep)  # (N,)
        network.tail(maps[0], network._conditions(t, None)[maps[0].shape[1]])
        return maps

    return forward


def _contiguous(extractor: Any) -> Form:
    extractor.network.to(memory_format=torch.contiguous_format)
    extractor.network.stem.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return extractor


def _convolving(extractor: Any) -> Form:
    for module in list(extractor.network.modules()):
        for name in ("expand", "contract", "merge"):
            if isinstance(getattr(module, name, None), nn.Linear):
                setattr(module, name, Pointwise(getattr(module, name)))
    return extractor


def refuse_other_maps(forms: dict[str, Form], images: Tensor) -> dict[str, float]:
    """Give the largest difference of each form's maps from ours, in terms of the largest value.

    Raises:
        BenchError: it is no rounding.
    """
    ours = forms["ours"](images)
    gaps = {}
    for name, form in forms.items():
        pairs = list(zip(form(images), ours, strict=True))
        gaps[name] = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
        if gaps[name] > SAME:
            raise BenchError(f"{name} gives other maps: they differ by {gaps[name]:.2g}")
    return gaps


def seconds_of(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time all in turn, forwards and then backwards."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name in list(works)[:: 1 if repeat % 2 == 0 else -1]:
            began = time.perf_counter()
            works[name]()
            taken[name].append(time.perf_counter() - began)
    return taken


def awaken(extractor: nn.Module) -> None:
    """Draw the weights that start at zero: gates of zero would make every block the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in extractor.parameters():
            if not weight.any():
                weight.normal_(0, 0.02, generator=generator)


@torch.inference_mode()
def main(
    backbone: Annotated[str, typer.Option(help="Its weights are random.")] = "cmd-tiny",
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    count: Annotated[int, typer.Option(help="Images at once.")] = 2,
    repeats: Annotated[int, typer.Option(help="Of each form.")] = 6,
    compile: Annotated[bool, typer.Option(help="Time what torch.compile makes of it too.")] = True,
    to: Out = None,
) -> None:
    """Compare the forms' maps, time them, and tell the medians."""
    keep_freed_memory()
    before = machine()
    extractor = open_backbone(backbone, random=True).extractor
    awaken(extractor)
    empty = torch.empty(1, 3, px, px, device="meta")
    cost = flops.count_flops(extractor, lambda own: own(empty)) * count
    images = torch.rand(count, 3, px, px, generator=torch.Generator().manual_seed(0))
    ways = forms(extractor, compile)
    began = time.perf_counter()
    gaps = refuse_other_maps(ways, images)  # and warm up, and compile
    warming = time.perf_counter() - began
    left, right = torch.randn(2, SIDE, SIDE)
    works: dict[str, Callable[[], object]] = {"matrix product": lambda: left @ right}
    works |= {name: lambda form=form: form(images) for name, form in ways.items()}
    taken = seconds_of(works, repeats)
    middle = {name: statistics.median(each) for name, each in taken.items()}
    ceiling = 2 * SIDE**3 / middle["matrix product"]
    rows = [
        {
            "form": name,
            "images/s": count / middle[name],
            "times ours": middle["ours"] / middle[name],
            "% of matmul": 100 * cost / middle[name] / ceiling,
            "differs by": gaps[name],
        }
        for name in ways
    ]
    title = f"{backbone}, {count} images of {px} px, float32, {before['threads']} threads"
    show(f"{title}; matrix product {ceiling / 1e9:.0f} GFLOP/s", rows)
    document = {"asked": title, "machine": before, "rows": rows, "seconds": taken}
    keep(f"forward-{backbone}", {**document, "warm_up_s": warming}, to)


if __name__ == "__main__":
    typer.run(main)
