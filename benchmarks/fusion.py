"""The decoder's first convolution of an enlarged map: taps at the map's own resolution, or plainly.

    OMP_NUM_THREADS=1 python benchmarks/fusion.py

Both are compared in float64 and then timed in float32, forward and as a training step, in turn
(A B, B A). "saved" says how many times fewer multiply-adds are made; the head takes the new way
from `GAIN` of `heads/_decoder.py` on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from versus import Out, keep, machine, show

from bench.heads import _decoder as head  # pyright: ignore[reportMissingImports]
from bench.training.malloc import keep_freed_memory

MAPS = (  # channels, side of the map, side of the output
    (384, 14, 224),
    (512, 28, 224),
    (256, 56, 224),
    (128, 56, 224),
    (256, 112, 224),
)
Way = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


def plainly(features: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge (N, C, h, w), and convolve by (D, C, 3, 3)."""
    return F.conv2d(F.interpolate(features, size, mode="bilinear"), weight, padding=1)


def largest_difference(channels: int, side: int, out: int) -> float:
    """Compare both ways in float64, on few channels out; give it in terms of the largest value."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    features, weight = draw(1, channels, side, side), draw(8, channels, 3, 3)
    wanted = plainly(features, weight, (out, out))
    found = head.convolve_enlarged(features, weight, (out, out))
    return float((found - wanted).abs().max() / wanted.abs().max())


def timed(way: Way, features: Tensor, weight: Tensor, out: int) -> tuple[float, float]:
    """Give the seconds of a forward pass, and of one with the gradient of the weights."""
    began = time.perf_counter()
    with torch.no_grad():
        way(features, weight, (out, out))
    middle = time.perf_counter()
    way(features, weight, (out, out)).square().mean().backward()
    weight.grad = None
    return middle - began, time.perf_counter() - middle


def main(
    repeats: Annotated[int, typer.Option(help="Of each way.")] = 4,
    to: Out = None,
) -> None:
    """Compare and time both ways for maps of several sizes."""
    keep_freed_memory()
    before, rows, gain = machine(), [], head.GAIN
    for channels, side, out in MAPS:
        plain = 9 * channels * out**2
        saved = plain / (9 * channels * side**2 + 9 * side**2 * out + 3 * side * out**2)
        head.GAIN = 0  # so that the new way is taken for every map
        gap = largest_difference(channels, side, out)
        assert gap < 1e-12, f"the two ways differ by {gap}"
        features = torch.randn(1, channels, side, side)
        weight = (torch.randn(head.REDUCED, channels, 3, 3) / 50).requires_grad_()
        ways: dict[str, Way] = {"plain": plainly, "own": head.convolve_enlarged}
        for way in ways.values():
            timed(way, features, weight, out)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for repeat in range(repeats):
            for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
                taken[name].append(timed(ways[name], features, weight, out))
        forward, step = (
            {name: statistics.median(each[part] for each in taken[name]) for name in ways}
            for part in (0, 1)
        )
        rows.append(
            {
                "map": f"{channels} x {side} x {side} to {out}",
                "saved": saved,
                "plain, ms": 1000 * forward["plain"],
                "own resolution, ms": 1000 * forward["own"],
                "step plain, ms": 1000 * step["plain"],
                "step own, ms": 1000 * step["own"],
                "differ (float64)": gap,
                "taken": saved > gain,
            }
        )
    show(f"first convolution of the decoder, {head.REDUCED} channels out", rows)
    keep("fusion", {"machine": before, "rows": rows}, to)


if __name__ == "__main__":
    typer.run(main)
