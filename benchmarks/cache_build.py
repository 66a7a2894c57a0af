"""How fast a cache of features is built: ours, kaiko-eva's and thunder-bench's, of one network.

    bash benchmarks/rivals.sh /tmp/rivals
    python benchmarks/cache_build.py --rivals /tmp/rivals

All sides take the same images and the same randomly initialised timm ViT. Before any time counts,
the maps that each has kept are compared: eva and THUNDER keep float32, ours is bfloat16, so ours
must be theirs rounded once.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import timm
import torch
import typer
from versus import Out, Rivals, Side, interleaved, keep, machine, median, show

from bench.api import Labelled
from bench.data import folder
from bench.errors import BenchError

COMPARED = 4  # images whose maps are compared
ROUNDING = 2**-8  # of bfloat16, of a number's own size
ORDER = 1e-3  # what another order of sums may change, where numbers are about 1; bf16: ROUNDING


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    network: str
    px: int
    count: int
    batch_size: int
    precision: str
    repeats: int


def pictures(root: Path, asked: Asked) -> None:
    """Write noisy images with one square nucleus each."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(asked.count):
        coarse = rng.integers(0, 256, (asked.px // 8, asked.px // 8, 3))
        image = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
        instances = np.zeros((asked.px, asked.px), np.uint16)
        instances[8:40, 8:40] = 1
        samples.append(Labelled(f"i{number:04}", image, instances, "train", f"p{number}"))
    folder.write(samples, root, about="pictures of noise")


def weights(path: Path, name: str) -> None:
    """Write the weights that all sides load."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    safetensors.torch.save_file(model.state_dict(), path)


def refuse_other_maps(work: Path, names: list[str], precision: str) -> dict[str, float]:
    """Compare what the sides kept; give the largest difference from ours.

    Raises:
        BenchError: they differ by more than one rounding to bfloat16.
    """
    ours = torch.load(work / names[0] / "maps.pt").float()
    differences = {}
    for name in names[1:]:
        theirs = torch.load(work / name / "maps.pt").float()
        if ours.shape != theirs.shape:
            raise BenchError(f"{name} kept maps of {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        off = (ours - theirs).abs()
        slack = ORDER if precision == "fp32" else 8 * ROUNDING
        if bool((off > ROUNDING * theirs.abs() + slack).any()):
            raise BenchError(f"{name} computed other maps: they differ by up to {off.max():.4f}")
        differences[name] = float(off.max())
    return differences


def main(
    rivals: Rivals,
    network: Annotated[str, typer.Option(help="A ViT of timm with patches of 16.")] = (
        "vit_small_patch16_224"
    ),
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    count: Annotated[int, typer.Option(help="Images.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Of the rivals.")] = 32,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, on all sides.")] = "fp32",
    repeats: Annotated[int, typer.Option(help="Of each side.")] = 4,
    to: Out = None,
) -> None:
    """Time the three in turn, and tell the medians and ratios."""
    asked = Asked(network, px, count, batch_size, precision, repeats)
    with tempfile.TemporaryDirectory() as name:
        document = measured(Path(name), rivals, asked)
    show(f"cache of {network}, {count} images of {px} px, {precision}", document["rows"])
    keep(f"cache_build_{precision}", document, to)


def measured(work: Path, rivals: Path, asked: Asked) -> dict[str, Any]:
    """Compare the maps, then time all sides."""
    weights(work / "weights.safetensors", asked.network)
    shared = {**vars(asked), "weights": str(work / "weights.safetensors"), "compared": COMPARED}
    sides = [
        Side("ours", "ours_cache.py", None),
        Side("kaiko-eva", "eva_cache.py", rivals / "eva"),
        Side("thunder-bench", "thunder_cache.py", rivals / "thunder"),
    ]
    pictures(work / "few", replace(asked, count=COMPARED))
    for side in sides:
        side.run({**shared, "images": str(work / "few")}, work)
    differences = refuse_other_maps(work, [side.name for side in sides], asked.precision)
    pictures(work / "images", asked)
    before = machine()
    told = interleaved(sides, {**shared, "images": str(work / "images")}, work, asked.repeats)
    return {
        "asked": vars(asked),
        "machine": before,
        "largest_difference": differences,
        "rows": [_row(name, runs, told["ours"], asked.count) for name, runs in told.items()],
        "runs": told,
    }


def _row(
    name: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]], count: int
) -> dict[str, object]:
    whole = median(runs, "seconds")
    steady = median(runs, "from_first_batch" if "from_first_batch" in runs[0] else "seconds")
    return {
        "side": name,
        "images/s": count / whole,
        "takes, of ours": whole / median(ours, "seconds"),
        "without the start of its workers": steady / median(ours, "seconds"),
        "MiB kept": runs[0]["bytes"] / 2**20,
    }


if __name__ == "__main__":
    typer.run(main)
