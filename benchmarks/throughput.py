"""Images per second of a backbone, compared with a lower bound on the time of its arithmetic.

    python benchmarks/throughput.py --backbone cmd-tiny --device cpu

The forward pass of the network, the features of `bench run` and the training step of
`bench pretrain` are timed alternately with a large matrix product in the same precision.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from versus import Out, interleaved, machine, save, show

from bench import registry
from bench.api import Backbone
from bench.cli.console import out
from bench.features.numerics import forbid_tf32
from bench.models.load import open_backbone
from bench.pretrain import flops
from bench.pretrain.objective import Masked, draw_times
from bench.runs.resolve import device_named
from bench.training.malloc import keep_freed_memory

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
EMA = 0.9999


@dataclass(frozen=True)
class Work:
    """Something that is timed.

    Attributes:
        run: run it once.
        images: number of images of a run.
        flops: of a run.
    """

    run: Callable[[], object]
    images: int
    flops: float


@dataclass(frozen=True)
class Setup:
    """What is measured, and on which device."""

    backbone: str
    device: str
    precision: str
    px: int
    batch_size: int
    compile: bool

    def autocast(self) -> torch.autocast:
        """Return the context of the precision."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def images(self) -> Tensor:
        """Return random images, (N, 3, S, S) in [0, 1]."""
        return torch.rand(self.batch_size, 3, self.px, self.px, device=self.device)

    def forms(self, name: str, module: nn.Module) -> Iterator[tuple[str, Callable[..., Tensor]]]:
        """Yield a module as it is, and compiled if requested."""
        yield name, module
        if self.compile:
            yield f"{name}, compiled", torch.compile(module)


def matmul(setup: Setup) -> Work:
    """Return the matrix product that bounds the speed."""
    side = MATMUL_SIDE[setup.device]
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=setup.device).to(dtype)
    return Work(lambda: left @ right, 0, 2 * side**3)


def training(setup: Setup, network: nn.Module) -> Iterator[tuple[str, Work]]:
    """Yield the forward pass and the training step of a network."""
    cost = flops.forward_flops(network, (3, setup.px, setup.px)) * setup.batch_size
    network.to(setup.device, memory_format=torch.channels_last)  # pyright: ignore
    images = 2 * setup.images() - 1
    t = torch.full((setup.batch_size,), 500, device=setup.device)  # (N,)

    def predict(forward: Callable[..., object]) -> None:
        with torch.inference_mode(), setup.autocast():
            forward(images.contiguous(memory_format=torch.channels_last), t, None)

    for name, forward in setup.forms("forward", network):
        yield name, Work(partial(predict, forward), setup.batch_size, cost)
    step = training_step(setup, network, images)
    for name, forward in setup.forms("training step", network):
        yield name, Work(partial(step, forward), setup.batch_size, flops.STEP * cost)


def training_step(setup: Setup, network: nn.Module, images: Tensor) -> Callable[..., None]:
    """Return a function that trains one step as `bench pretrain` does."""
    weights = list(network.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=3e-5, weight_decay=0.0, fused=True)
    objective = Masked()
    generators = [torch.Generator().manual_seed(number) for number in range(len(images))]

    def step(forward: Callable[..., Tensor]) -> None:
        t = draw_times(generators)  # (N,)
        masked = objective.corrupt(images, t, generators)  # (N, 3, S, S)
        masked = masked.contiguous(memory_format=torch.channels_last)
        with setup.autocast():
            prediction = forward(masked, t.to(setup.device), None)  # (N, 3, S, S)
        loss = objective.loss(prediction, images, masked, t)
        loss.backward()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert math.isfinite(loss.item() + norm.item())  # the trainer checks them too
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - EMA)  # pyright: ignore

    return step


def features(setup: Setup) -> Iterator[tuple[str, Work]]:
    """Yield the feature maps of the extractor."""
    extractor = open_backbone(setup.backbone, random=True).extractor
    empty = torch.empty(1, 3, setup.px, setup.px, device="meta")
    cost = flops.count_flops(extractor, lambda copied: copied(empty)) * setup.batch_size
    extractor.to(setup.device)
    images = setup.images()

    def extract(forward: Callable[..., object]) -> None:
        with torch.inference_mode(), setup.autocast():
            forward(images)

    for name, forward in setup.forms("features", extractor):
        yield name, Work(partial(extract, forward), setup.batch_size, cost)


def seconds_of(works: dict[str, Work], repeats: int, least_s: float) -> dict[str, float]:
    """Time all alternately, and return the median seconds of one run of each."""
    runs = {}
    for name, work in works.items():
        work.run()  # compiles, allocates, chooses algorithms
        runs[name] = max(1, math.ceil(least_s / timed(work, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name in interleaved(list(works), repeats):
        seconds[name].append(timed(works[name], runs[name]) / runs[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(work: Work, runs: int) -> float:
    """Return the seconds of some runs."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    began = time.perf_counter()
    for _ in range(runs):
        work.run()
    synchronise()
    return time.perf_counter() - began


def main(
    backbone: Annotated[str, typer.Option(help="Its weights are random.")] = "cmd-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 autocast.")] = "bf16",
    px: Annotated[int, typer.Option(help="Side of the images.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 8,
    compile: Annotated[bool, typer.Option(help="Also time the output of torch.compile.")] = False,
    repeats: Annotated[int, typer.Option(help="Timings of each; the median is shown.")] = 3,
    seconds: Annotated[float, typer.Option(help="Least duration of a timing.")] = 1.0,
    to: Out = None,
) -> None:
    """Time the forward pass, the training step and the features of a backbone."""
    keep_freed_memory()
    forbid_tf32()
    setup = Setup(backbone, device_named(device).type, precision, px, batch_size, compile)
    before = machine()
    record: Backbone = registry.get("backbones", backbone)
    works = {"matrix product": matmul(setup)}
    if record.network is not None:
        works |= dict(training(setup, record.network(cond_dim=None)))
    works |= dict(features(setup))
    medians = seconds_of(works, repeats, seconds)
    speeds = {name: work.flops / medians[name] for name, work in works.items()}
    limit = speeds.pop("matrix product")
    peak = flops.peak_flops(torch.device(setup.device)) if precision == "bf16" else None
    rows = [
        {
            "part": name,
            "images/s": works[name].images / medians[name],
            "GFLOP per image": works[name].flops / works[name].images / 1e9,
            "% of matmul": 100 * speed / limit,
            "% of peak": "" if peak is None else 100 * speed / peak,
        }
        for name, speed in speeds.items()
    ]
    show(f"{backbone}, {batch_size} images of {px} px, {precision}, {setup.device}", rows)
    side = MATMUL_SIDE[setup.device]
    out.print(f"matrix product {side} x {side}: {limit / 1e12:.3f} TFLOP/s; {before}")
    document = {"setup": asdict(setup), "machine": before, "matmul_flops": limit, "rows": rows}
    save(f"throughput-{backbone}", document, to)


if __name__ == "__main__":
    typer.run(main)
