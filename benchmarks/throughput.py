"""How many images a backbone takes a second on this machine, beside what the machine can do at all.

    python benchmarks/throughput.py --backbone cmd-tiny --device cpu

Three things are timed: the network's forward pass, the extractor's features as `bench run` takes
them, and a training step as `bench pretrain` makes it. Their floor is the time that their
arithmetic takes at the speed of a large matrix product, timed in the same run and precision. All
are timed in turn, forwards and then backwards (A B C, C B A), so that a machine that slows down or
is busy for a while does not favour one; the median of the repeats is told.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from works import MATMUL_SIDE, Asked, Machine, Work

from bench.api import Progress
from bench.cli.console import Json, err, out, progress
from bench.errors import BenchError
from bench.features.numerics import forbid_tf32, numerics
from bench.pretrain import flops
from bench.training.malloc import keep_freed_memory


@dataclass(frozen=True)
class Row:
    """What was measured of a work.

    Attributes:
        images_per_s: the median of the repeats; `slowest` and `fastest` are the extremes.
        gflops_per_image: what it computes; see `bench.pretrain.flops`.
        of_matmul: the share of the speed of the matrix product; 1 is the floor of the time.
        of_peak: the share of the vendor's peak (MFU); None where it is not known.
    """

    name: str
    images_per_s: float
    slowest: float
    fastest: float
    gflops_per_image: float
    of_matmul: float
    of_peak: float | None


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        matmul_flops: the speed of the matrix product, in FLOP/s.
        peak_flops: the vendor's; None where it is not known, and in float32.
    """

    matmul_flops: float
    peak_flops: float | None
    rows: Sequence[Row]


def measure(machine: Machine, report: Progress) -> Result:
    """Time everything in turn.

    Raises:
        BenchError: there is no such backbone, or it does not fit into the memory of the device.
    """
    asked = machine.asked
    try:
        works = list(machine.works())
        seconds = _interleaved(machine, works, report)
    except torch.OutOfMemoryError as error:
        raise BenchError(
            f"{asked.batch_size} images of {asked.px} px do not fit into the memory of "
            f"{machine.device}: lower --batch-size."
        ) from error
    peak = flops.peak_flops(machine.device) if asked.precision == "bf16" else None
    matmul = works[0].flops / statistics.median(seconds[0])
    rows = [
        _row(*each, matmul, peak) for each in zip(works, seconds, strict=True) if each[0].images
    ]
    return Result(matmul, peak, rows)


def _interleaved(machine: Machine, works: Sequence[Work], report: Progress) -> list[list[float]]:
    """Give for each work the seconds of one run, a number a repeat."""
    repeats, runs = machine.asked.repeats, []
    for number, work in enumerate(works):
        report("warming up", number, len(works))
        runs.append(_runs(machine, work))
    report("warming up", len(works), len(works))
    seconds: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats):
        report("timing", repeat, repeats)
        for number in range(len(works))[:: 1 if repeat % 2 == 0 else -1]:
            seconds[number].append(_timed(machine, works[number], runs[number]) / runs[number])
    report("timing", repeats, repeats)
    return seconds


def _row(work: Work, seconds: Sequence[float], matmul: float, peak: float | None) -> Row:
    middle, speed = statistics.median(seconds), work.flops / statistics.median(seconds)
    return Row(
        name=work.name,
        images_per_s=work.images / middle,
        slowest=work.images / max(seconds),
        fastest=work.images / min(seconds),
        gflops_per_image=work.flops / work.images / 1e9,
        of_matmul=speed / matmul,
        of_peak=None if peak is None else speed / peak,
    )


def _runs(machine: Machine, work: Work) -> int:
    """Warm up, and say how many runs make a timing long enough."""
    work.run()  # compiles, allocates, chooses algorithms
    return max(1, math.ceil(machine.asked.seconds / _timed(machine, work, 1)))


def _timed(machine: Machine, work: Work, runs: int) -> float:
    machine.synchronise()
    began = time.perf_counter()
    for _ in range(runs):
        work.run()
    machine.synchronise()
    return time.perf_counter() - began


# ---- the command -----------------------------------------------------------------------------


def throughput(
    backbone: Annotated[str, typer.Option(help="What is timed.")] = "cmd-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 autocast.")] = "bf16",
    px: Annotated[int, typer.Option(min=1, help="Side of the images.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through at once.")] = 8,
    compile: Annotated[bool, typer.Option(help="Time what torch.compile makes of it too.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each; the median counts.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="How long one timing takes at least.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Time forward pass, features and training step of a backbone, and tell how near the floor."""
    keep_freed_memory()
    forbid_tf32()
    asked = Asked(backbone, device, precision, px, batch_size, compile, repeats, seconds)
    machine = Machine(asked)
    with progress(quiet=as_json) as report:
        result = measure(machine, report)
    if as_json:
        print(json.dumps({**asdict(asked), **_where(machine.device), **asdict(result)}))
        return
    for line in [*_lines(machine, result), *machine.notes]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _where(device: torch.device) -> dict[str, object]:
    """Tell on what was measured, and how busy it is: a load near its cores makes numbers small."""
    cuda = device.type == "cuda"
    return {
        **numerics(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _lines(machine: Machine, result: Result) -> Iterator[str]:
    asked, where = machine.asked, _where(machine.device)
    yield (
        f"{asked.backbone}, {asked.batch_size} images of {asked.px} px, {asked.precision}, "
        f"{where['device']} ({where['device_name']}), {where['threads']} threads, torch "
        f"{where['torch']}; load {where['load']} on {where['cores']} cores"
    )
    side = MATMUL_SIDE[machine.device.type]
    yield f"matrix product {side} x {side}: {result.matmul_flops / 1e12:.3f} TFLOP/s"
    if result.peak_flops is not None:
        yield f"vendor's dense peak: {result.peak_flops / 1e12:.1f} TFLOP/s"
    yield f"{'':24} {'images/s':>10} {'(range)':>19} {'GFLOP':>9} {'of matmul':>9} {'of peak':>8}"
    for row in result.rows:
        told = f"({row.slowest:.2f} to {row.fastest:.2f})"
        peak = "" if row.of_peak is None else f"{row.of_peak:.1%}"
        yield (
            f"{row.name:24} {row.images_per_s:10.2f} {told:>19} {row.gflops_per_image:9.1f} "
            f"{row.of_matmul:9.1%} {peak:>8}"
        )


def main() -> None:
    """Run the command; an error that can be cured ends with exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(throughput)
    try:
        app()
    except BenchError as error:
        err.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
