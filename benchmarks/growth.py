"""How time and memory grow with images, sides, channels and models: each doubled in turn.

    python benchmarks/growth.py

Of one linear probe on kept maps of stride 16: the time of a training epoch and the bytes kept; of a
board: the time of its intervals. Times are medians of three and small: read the trend.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer
from intervals import names, normal, scores
from versus import Out, keep, machine, show

from bench.heads._linear import LinearHead  # pyright: ignore[reportMissingImports]
from bench.stats import bootstrap
from bench.training.malloc import keep_freed_memory

STRIDE, BATCH = 16, 8
START = {"images": 16, "px": 128, "channels": 192, "models": 10}


def epoch(images: int, px: int, channels: int) -> Callable[[], object]:
    """Give one epoch of a linear head over random bfloat16 maps."""
    side = px // STRIDE
    maps = torch.randn(images, channels, side, side).bfloat16()
    targets = (torch.rand(images, px, px) < 0.3).long()
    head = LinearHead((channels,), 2)
    stepper = torch.optim.AdamW(head.parameters())

    def run() -> None:
        for start in range(0, images, BATCH):
            own = slice(start, start + BATCH)
            loss = head.training_loss([maps[own].float()], targets[own])
            stepper.zero_grad(set_to_none=True)
            loss.backward()
            stepper.step()

    return run


def board(models: int) -> Callable[[], object]:
    """Give the intervals of ten scores of some models over 30 patients."""
    values, own = scores(normal, 10 * models, 30, seed=0), names(30)

    def run() -> None:
        bootstrap.drawn.cache_clear()
        bootstrap.intervals(values, own, seed_text="growth")

    return run


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Give the median time of a run, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _exponent(rows: list[dict]) -> float:
    """Fit the time as a power of the value."""
    value, taken = np.log2([(row["value"], row["s"]) for row in rows]).T
    return float(np.polyfit(value, taken, 1)[0])


def main(
    doublings: Annotated[int, typer.Option(min=1, help="Of each axis.")] = 3, to: Out = None
) -> None:
    """Double each axis in turn, the others as at the start."""
    keep_freed_memory()
    before, rows = machine(), []
    for axis in START:
        last = None
        for doubling in range(doublings + 1):
            at = {**START, axis: START[axis] * 2**doubling}
            one = {name: at[name] for name in ("images", "px", "channels")}
            work = board(at["models"]) if axis == "models" else epoch(**one)
            size = at["images"] * at["channels"] * (at["px"] // STRIDE) ** 2 * 2
            taken = seconds(work)
            rows.append(
                {
                    "axis": axis,
                    "value": at[axis],
                    "s": taken,
                    "of the one before": "" if last is None else f"{taken / last:.2f}",
                    "MiB kept": "" if axis == "models" else f"{size / 2**20:.2f}",
                }
            )
            last = taken
    show("doubled in turn", rows)
    slopes = {axis: _exponent([row for row in rows if row["axis"] == axis]) for axis in START}
    show("exponent of the growth of time", [slopes])
    keep("growth", {"machine": before, "start": START, "rows": rows, "exponents": slopes}, to)


if __name__ == "__main__":
    typer.run(main)
