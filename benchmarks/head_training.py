"""How many steps a second a linear head trains on kept features: ours and kaiko-eva's `fit`.

    python benchmarks/head_training.py --rivals /tmp/rivals

Both train the same layer from the same zero weights on the same bfloat16 maps, by the same loss
(cross-entropy and Dice over the batch, of all classes), AdamW and cosine. Before any time counts,
both train a few epochs on one full batch, and losses and weights are compared. "steady" leaves out
the first epoch, and with it eva's start of workers.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from versus import Out, Rivals, Side, interleaved, keep, machine, median, show

from bench.errors import BenchError

SAME = 2e-3  # the largest difference of weights (they move by about 1e-3 a step) and of losses


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    width: int
    px: int
    stride: int
    count: int
    batch_size: int
    epochs: int
    lr: float
    repeats: int


def material(root: Path, asked: Asked) -> dict[str, str]:
    """Write maps that know something of their targets, and the targets."""
    generator = torch.Generator().manual_seed(0)
    side = asked.px // asked.stride
    coarse = torch.rand(asked.count, side, side, generator=generator) < 0.3
    targets = coarse.repeat_interleave(asked.stride, 1).repeat_interleave(asked.stride, 2).long()
    maps = torch.randn(asked.count, asked.width, side, side, generator=generator)
    maps[:, :8] += coarse[:, None].float()
    root.mkdir(parents=True, exist_ok=True)
    torch.save(maps.bfloat16(), root / "maps.pt")
    torch.save(targets, root / "targets.pt")
    return {"maps": str(root / "maps.pt"), "targets": str(root / "targets.pt")}


def refuse_other_training(told: list[dict[str, Any]]) -> dict[str, float]:
    """Compare losses and weights of two trainings; give the largest differences.

    Raises:
        BenchError: they are not the same training.
    """
    ours, theirs = told
    weight = max(abs(a - b) for a, b in zip(ours["weight"], theirs["weight"], strict=True))
    loss = abs(ours["loss"] - theirs["loss"])
    if max(weight, loss) > SAME:
        raise BenchError(f"not the same training: weights differ by {weight}, losses by {loss}")
    return {"weight": weight, "loss": loss}


def main(
    rivals: Rivals,
    width: Annotated[int, typer.Option(help="Channels of the map.")] = 384,
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    stride: Annotated[int, typer.Option(help="Of the map.")] = 16,
    count: Annotated[int, typer.Option(help="Images.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 8,
    epochs: Annotated[int, typer.Option(help="The first is not in the steady time.")] = 11,
    repeats: Annotated[int, typer.Option(help="Of each side.")] = 4,
    to: Out = None,
) -> None:
    """Time both in turn, and tell the medians and the ratio."""
    asked = Asked(width, px, stride, count, batch_size, epochs, 1e-3, repeats)
    with tempfile.TemporaryDirectory() as name:
        document = measured(Path(name), rivals, asked)
    show(f"linear head, {width} channels, {px} px, batches of {batch_size}", document["rows"])
    keep("head_training", document, to)


def measured(work: Path, rivals: Path, asked: Asked) -> dict[str, Any]:
    """Compare the trainings, then time both sides."""
    shared = {**vars(asked), **material(work / "material", asked)}
    sides = [
        Side("ours", "ours_fit.py", None),
        Side("kaiko-eva", "eva_fit.py", rivals / "eva"),
    ]
    checked = {**shared, "batch_size": asked.count, "epochs": 12}
    differences = refuse_other_training([side.run(checked, work) for side in sides])
    before = machine()
    told = interleaved(sides, shared, work, asked.repeats)
    for run in [run for runs in told.values() for run in runs]:
        del run["weight"]
    rows = [
        {
            "side": name,
            "steps/s, steady": runs[0]["steady_steps"] / median(runs, "steady_seconds"),
            "steps/s, all": runs[0]["steps"] / median(runs, "seconds"),
            "takes, of ours, steady": median(runs, "steady_seconds")
            / median(told["ours"], "steady_seconds"),
            "takes, of ours, all": median(runs, "seconds") / median(told["ours"], "seconds"),
        }
        for name, runs in told.items()
    ]
    return {
        "asked": vars(asked),
        "machine": before,
        "largest_difference": differences,
        "rows": rows,
        "runs": told,
    }


if __name__ == "__main__":
    typer.run(main)
