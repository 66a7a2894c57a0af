"""How long the scores of 32 masks of 500 x 500 with 1,000-resample intervals take.

    python benchmarks/scoring.py --rivals /tmp/rivals

Ours counts the pixels of each image once and resamples the counts; torchmetrics' `BootStrapper`
updates a copy of its metric for every resample, so its time is proportional to their number. It is
timed with a few, and with half of these to show that it is proportional; its time for all of them
is that times their ratio, and is marked as such. MONAI has no intervals: its scores alone are
timed. Before any time counts, the means must be the same; with `--all` torchmetrics makes every
resample, which takes the better part of an hour, and the intervals are compared too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from versus import Out, Rivals, Side, interleaved, keep, machine, median, show

from bench.errors import BenchError

MASKS, PX, RESAMPLES = 32, 500, 1000


def masks(path: Path) -> None:
    """Write found and true masks, (2, M, H, W) bool: discs, of which a part is found."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:PX, :PX]
    both = np.zeros((2, MASKS, PX, PX), bool)
    for number in range(MASKS):
        for _ in range(40):
            (cy, cx), radius = rng.integers(0, PX, 2), rng.integers(6, 20)
            moved, shrunk = rng.integers(-3, 4, 2), rng.integers(0, 6)
            both[1, number] |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            both[0, number] |= (y - cy - moved[0]) ** 2 + (x - cx - moved[1]) ** 2 < (
                radius - shrunk
            ) ** 2
    np.save(path, both)


def main(
    rivals: Rivals,
    few: Annotated[int, typer.Option(help="Resamples that torchmetrics is timed with.")] = 8,
    whole: Annotated[bool, typer.Option("--all", help="All of them, without scaling.")] = False,
    repeats: Annotated[int, typer.Option(help="Of each side.")] = 4,
    to: Out = None,
) -> None:
    """Time the sides in turn, and tell the medians and ratios."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        masks(work / "masks.npy")
        document = measured(work, rivals, RESAMPLES if whole else few, repeats)
    show(f"{MASKS} masks of {PX} x {PX}, {RESAMPLES} resamples", document["rows"])
    keep("scoring", document, to)


def measured(work: Path, rivals: Path, timed: int, repeats: int) -> dict[str, Any]:
    """Time all sides, and refuse other means."""
    resampled = {
        "ours": RESAMPLES,
        "torchmetrics": timed,
        "MONAI": 0,
        "torchmetrics, half": timed // 2,
    }
    eva = rivals / "eva"
    bootstrap = "torchmetrics_scoring.py"
    sides = [
        Side("ours", "ours_scoring.py", None, {"resamples": RESAMPLES}),
        Side("torchmetrics", bootstrap, eva, {"resamples": timed}),
        Side("torchmetrics, half", bootstrap, eva, {"resamples": timed // 2}),
        Side("MONAI", "monai_scoring.py", eva, {}),
    ]
    before = machine()
    told = interleaved(sides, {"masks": str(work / "masks.npy")}, work, repeats)
    means = [runs[0]["mean"] for runs in told.values()]
    if max(means) - min(means) > 1e-5:
        raise BenchError(f"the sides find other means: {means}")
    ours = median(told["ours"], "seconds")
    rows = []
    for name, runs in told.items():
        count, seconds = resampled[name], median(runs, "seconds")
        scaled = seconds * (RESAMPLES / count if count else 1)
        note = "" if count in (0, RESAMPLES) else " (scaled)"
        rows.append(
            {
                "side": name,
                "scores": runs[0]["scores"],
                "resamples timed": count,
                "s, timed": seconds,
                f"s for {RESAMPLES}": f"{scaled:.3g}{note}",
                "takes, of ours": scaled / ours,
            }
        )
    return {
        "asked": {"masks": MASKS, "px": PX, "resamples": RESAMPLES, "repeats": repeats},
        "machine": before,
        "means": means,
        "rows": rows,
        "runs": told,
    }


if __name__ == "__main__":
    typer.run(main)
