"""How long scores of 32 masks of 500 x 500 with intervals of 1,000 resamples take.

    python benchmarks/scoring.py --rivals /tmp/rivals

Ours counts the pixels of an image once and resamples the counts. torchmetrics' `BootStrapper`
updates a copy of its metric per resample, so its time is proportional to their number: it is timed
with a few, and scaled. MONAI has no intervals. All means must be equal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from versus import Out, Rivals, Side, machine, median, run_all, save, show

from bench.errors import BenchError

MASKS, PX, RESAMPLES = 32, 500, 1000


def write_masks(path: Path) -> None:
    """Write predicted and true masks, (2, M, H, W) bool: discs, predicted smaller and shifted."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:PX, :PX]
    masks = np.zeros((2, MASKS, PX, PX), bool)
    for number in range(MASKS):
        for _ in range(40):
            (cy, cx), radius = rng.integers(0, PX, 2), rng.integers(6, 20)
            (dy, dx), smaller = rng.integers(-3, 4, 2), radius - rng.integers(0, 6)
            masks[0, number] |= (y - cy - dy) ** 2 + (x - cx - dx) ** 2 < smaller**2
            masks[1, number] |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    np.save(path, masks)


def main(
    rivals: Rivals,
    few: Annotated[int, typer.Option(help="Number of resamples of torchmetrics.")] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each package.")] = 4,
    to: Out = None,
) -> None:
    """Time the packages alternately, and show medians and ratios."""
    resamples = {"ours": RESAMPLES, "torchmetrics": few, "MONAI": 0}
    sides = [
        Side("ours", "ours_scoring.py", None, {"resamples": RESAMPLES}),
        Side("torchmetrics", "torchmetrics_scoring.py", rivals / "eva", {"resamples": few}),
        Side("MONAI", "monai_scoring.py", rivals / "eva"),
    ]
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks.npy"
        write_masks(masks)
        runs = run_all(sides, {"masks": str(masks)}, Path(folder), repeats)
    means = [results[0]["mean"] for results in runs.values()]
    if max(means) - min(means) > 1e-5:
        raise BenchError(f"the packages compute different means: {means}")
    ours = median(runs["ours"], "seconds")
    rows: list[dict[str, Any]] = []
    for name, results in runs.items():
        seconds = median(results, "seconds")
        scaled = seconds * RESAMPLES / resamples[name] if resamples[name] else seconds
        row = {"package": name, "scores": results[0]["scores"], "resamples": resamples[name]}
        rows.append(row | {"s": seconds, "s, scaled": scaled, "relative to ours": scaled / ours})
    show(f"{MASKS} masks of {PX} x {PX}, {RESAMPLES} resamples", rows)
    save("scoring", {"machine": before, "means": means, "rows": rows, "runs": runs}, to)


if __name__ == "__main__":
    typer.run(main)
