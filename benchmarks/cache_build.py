"""How fast features are cached: ours, kaiko-eva's and thunder-bench's, with one network.

    bash benchmarks/rivals.sh /tmp/rivals
    python benchmarks/cache_build.py --rivals /tmp/rivals

All process the same images with the same randomly initialised timm ViT. First the cached maps are
compared: eva and THUNDER store float32, ours is bfloat16, so ours must be theirs rounded once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import timm
import torch
import typer
from versus import Out, Rivals, Side, machine, median, run_all, save, show

from bench.api import Labelled
from bench.data import folder
from bench.errors import BenchError

COMPARED = 4  # number of images whose maps are compared
ROUNDING = 2**-8  # of bfloat16, relative
ORDER = 1e-3  # absolute difference of float32 sums in another order; in bf16, ROUNDING


def write_images(root: Path, count: int, px: int) -> str:
    """Write noisy images with one square nucleus each; return the folder."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        coarse = rng.integers(0, 256, (px // 8, px // 8, 3))
        image = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
        instances = np.zeros((px, px), np.uint16)
        instances[8:40, 8:40] = 1
        samples.append(Labelled(f"i{number:04}", image, instances, "train", f"p{number}"))
    folder.write(samples, root, about="images of noise")
    return str(root)


def refuse_other_maps(work: Path, names: list[str], precision: str) -> dict[str, float]:
    """Compare the cached maps; return the largest difference from ours.

    Raises:
        BenchError: they differ by more than one rounding to bfloat16.
    """
    ours = torch.load(work / "ours" / "maps.pt").float()
    differences = {}
    for name in names:
        theirs = torch.load(work / name / "maps.pt").float()
        difference = (ours - theirs).abs()
        tolerance = ORDER if precision == "fp32" else 8 * ROUNDING
        if bool((difference > ROUNDING * theirs.abs() + tolerance).any()):
            raise BenchError(f"{name} computed other maps: they differ by {difference.max():.4f}")
        differences[name] = float(difference.max())
    return differences


def main(
    rivals: Rivals,
    network: Annotated[str, typer.Option(help="A ViT of timm with patches of 16.")] = (
        "vit_small_patch16_224"
    ),
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    count: Annotated[int, typer.Option(help="Number of images.")] = 128,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, of all packages.")] = "fp32",
    repeats: Annotated[int, typer.Option(help="Runs of each package.")] = 4,
    to: Out = None,
) -> None:
    """Compare the maps, time the packages alternately, and show medians and ratios."""
    setup = {"network": network, "px": px, "batch_size": 32, "precision": precision}
    sides = [
        Side("ours", "ours_cache.py", None),
        Side("kaiko-eva", "eva_cache.py", rivals / "eva"),
        Side("thunder-bench", "thunder_cache.py", rivals / "thunder"),
    ]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        torch.manual_seed(0)
        model = timm.create_model(network, pretrained=False, num_classes=0)
        safetensors.torch.save_file(model.state_dict(), work / "weights.safetensors")
        shared = {**setup, "weights": str(work / "weights.safetensors"), "compared": COMPARED}
        few = write_images(work / "few", COMPARED, px)
        for side in sides:
            side.run({**shared, "images": few}, work)
        differences = refuse_other_maps(work, [side.name for side in sides[1:]], precision)
        images = write_images(work / "images", count, px)
        before = machine()
        runs = run_all(sides, {**shared, "images": images}, work, repeats)
    rows = []
    for name, results in runs.items():
        steady = "from_first_batch" if "from_first_batch" in results[0] else "seconds"
        ours, seconds = median(runs["ours"], "seconds"), median(results, "seconds")
        row = {"package": name, "images/s": count / seconds, "relative to ours": seconds / ours}
        row["without the start of its workers"] = median(results, steady) / ours
        rows.append(row | {"MiB cached": results[0]["bytes"] / 2**20})
    show(f"cache of {network}, {count} images of {px} px, {precision}", rows)
    document = {"setup": setup, "machine": before, "largest_difference": differences}
    save(f"cache_build_{precision}", {**document, "rows": rows, "runs": runs}, to)


if __name__ == "__main__":
    typer.run(main)
