"""Steps per second of a linear head on cached features: ours and kaiko-eva's `fit`.

    python benchmarks/head_training.py --rivals /tmp/rivals

Both train the same layer from zero weights on the same bfloat16 maps by the same loss
(cross-entropy and Dice over the batch, of all classes), AdamW and a cosine. First both train some
epochs on one full batch, and losses and weights are compared. "Steady" excludes the first epoch,
and with it the start of eva's workers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from versus import Out, Rivals, Side, machine, median, run_all, save, show

from bench.errors import BenchError

SAME = 2e-3  # largest difference of weights (they change by about 1e-3 per step) and of losses
STRIDE = 16


def write_maps(folder: Path, count: int, width: int, px: int) -> dict[str, str]:
    """Write maps that depend on their targets, and the targets; return the paths."""
    generator = torch.Generator().manual_seed(0)
    side = px // STRIDE
    coarse = torch.rand(count, side, side, generator=generator) < 0.3
    maps = torch.randn(count, width, side, side, generator=generator)
    maps[:, :8] += coarse[:, None].float()
    torch.save(maps.bfloat16(), folder / "maps.pt")
    targets = coarse.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2).long()
    torch.save(targets, folder / "targets.pt")
    return {"maps": str(folder / "maps.pt"), "targets": str(folder / "targets.pt")}


def refuse_other_training(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences of two trainings.

    Raises:
        BenchError: they are not the same training.
    """
    weight = max(abs(a - b) for a, b in zip(ours["weight"], theirs["weight"], strict=True))
    loss = abs(ours["loss"] - theirs["loss"])
    if max(weight, loss) > SAME:
        raise BenchError(f"not the same training: weights differ by {weight}, losses by {loss}")
    return {"weight": weight, "loss": loss}


def main(
    rivals: Rivals,
    width: Annotated[int, typer.Option(help="Channels of the map.")] = 384,
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    count: Annotated[int, typer.Option(help="Number of images.")] = 64,
    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 11,
    repeats: Annotated[int, typer.Option(help="Runs of each package.")] = 4,
    to: Out = None,
) -> None:
    """Time both alternately, and show medians and ratios."""
    setup = {"width": width, "px": px, "count": count, "batch_size": 8, "lr": 1e-3}
    sides = [
        Side("ours", "ours_fit.py", None),
        Side("kaiko-eva", "eva_fit.py", rivals / "eva"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shared = {**setup, **write_maps(work, count, width, px)}
        compared = {**shared, "batch_size": count, "epochs": 12}
        differences = refuse_other_training(*(side.run(compared, work) for side in sides))
        before = machine()
        runs = run_all(sides, {**shared, "epochs": epochs}, work, repeats)
    for run in [run for results in runs.values() for run in results]:
        del run["weight"]
    rows = []
    for name, results in runs.items():
        row: dict[str, object] = {"package": name}
        for part, prefix in (("steady", "steady_"), ("all", "")):
            seconds = median(results, f"{prefix}seconds")
            row[f"steps/s, {part}"] = results[0][f"{prefix}steps"] / seconds
            row[f"relative to ours, {part}"] = seconds / median(runs["ours"], f"{prefix}seconds")
        rows.append(row)
    show(f"linear head, {width} channels, {px} px", rows)
    document = {"setup": setup, "machine": before, "largest_difference": differences}
    save("head_training", {**document, "rows": rows, "runs": runs}, to)


if __name__ == "__main__":
    typer.run(main)
