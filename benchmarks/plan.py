"""Plan on paper: how long the paper's grid and a pretraining take on 1, 8 and 64 GPUs at least.

    python benchmarks/plan.py --page docs/scale.md

Arithmetic only, counted on the meta device (`bench.pretrain.flops`) at an assumed speed: a floor,
no measurement. What is not arithmetic (start, reading, launching small kernels) is added as a fixed
time a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer
from intervals import filled

from bench import registry
from bench.api import Backbone, Head, Recipe
from bench.cli.console import out
from bench.errors import BenchError
from bench.models.load import open_backbone
from bench.pretrain import flops

GPUS = (1, 8, 64)
IMAGES = {"cpm15": 15, "cpm17": 64, "tnbc": 50, "kumar": 30, "janowczyk": 143}
TABLE_4 = (
    "conch",
    "conch-v1.5",
    "h-optimus-0",
    "h-optimus-1",
    "hibou-l",
    "kaiko-l14",
    "musk",
    "midnight-12k",
    "pathorchestra",
    "phikon",
    "phikon-v2",
    "gigapath",
    "uni",
    "uni2-h",
    "virchow",
    "virchow2",
    "vista-path",
    "cmd-l",
    "transunet",
    "nnunet",
    "vit-adapter-l",
)
TABLE_5 = ("cmd-l", "h-optimus-1", "uni2-h", "transunet", "vit-adapter-l")
SHOTS, DRAWS = (1, 5, 10), 5
STEPS, BATCH, PATCHES = 80_000, 128, 1_000_000  # the paper names no batch; its parents took 128


@dataclass(frozen=True)
class Run:
    """A run and its arithmetic: once for features, and for training, in FLOPs."""

    name: str
    features: float
    training: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.features + self.training


@cache
def costs(name: str, head_name: str | None) -> tuple[float, float, bool, Recipe]:
    """Count for one image: the extractor, its head, whether the extractor trains, its recipe."""
    backbone: Backbone = registry.get("backbones", name)
    with torch.device("meta"):
        extractor = open_backbone(name).extractor
    side = backbone.input_px or (504 if max(extractor.strides) == 14 else 512)
    empty = torch.empty(1, 3, side, side, device="meta")
    own = flops.count_flops(extractor, lambda module: module(empty))
    plugin = registry.get("heads", head_name or backbone.default_head)
    with torch.device("meta"):
        head: Head = plugin.build(extractor.channels, extractor.strides, 2)
        levels = zip(extractor.channels, extractor.strides, strict=True)
        maps = [torch.empty(1, c, side // s, side // s) for c, s in levels]
    head.eval()
    cost = flops.count_flops(head, lambda module: module(maps, (side, side)))
    trains = any(each.requires_grad for each in extractor.parameters())
    return own, cost, trains, backbone.recipe if trains else Recipe()


def run_of(name: str, dataset: str, head: str | None, trained: int, trainings: int = 1) -> Run:
    """Cost a run that trains on so many images, so many times, and scores all of the set."""
    extractor, own_head, trains, recipe = costs(name, head)
    steps = recipe.epochs * trained * trainings  # in images
    features = extractor * IMAGES[dataset]
    training = flops.STEP * steps * (own_head + (extractor if trains else 0))
    return Run(f"{name} on {dataset}", features, training)


def grid(missing: list[str]) -> Iterator[Run]:
    """Give the runs of Tables 4 and 5; what cannot be built here is named in `missing`."""
    for name in TABLE_4:
        try:
            for dataset in ("cpm15", "cpm17", "tnbc"):
                yield run_of(name, dataset, None, IMAGES[dataset])
        except (BenchError, RuntimeError) as error:
            missing.append(f"{name} ({str(error).partition(':')[0]})")
    for name in TABLE_5:
        if not any(each.startswith(name) for each in missing):
            for dataset in ("cpm17", "tnbc"):
                for shots in SHOTS:
                    yield run_of(name, dataset, None, shots, DRAWS)


def grid_table(speed: float, start_s: float, missing: list[str]) -> Iterator[str]:
    """Tell the hours of the grid: runs are independent, so the longest bounds them all."""
    runs = list(grid(missing))
    seconds = [each.total / speed + start_s for each in runs]
    longest = runs[seconds.index(max(seconds))]
    share = sum(each.features for each in runs) / sum(each.total for each in runs)
    yield f"{len(runs)} runs, {sum(each.total for each in runs):.2e} FLOPs, of which features that"
    yield f"are cached {share:.0%}. The longest run is {longest.name}: {max(seconds) / 60:.1f} min."
    yield ""
    yield "| GPUs | at least, h | of it, fixed time of runs |"
    yield "| --- | --- | --- |"
    for gpus in GPUS:
        whole = max(sum(seconds) / gpus, max(seconds))
        yield f"| {gpus} | {whole / 3600:.2f} | {start_s * len(runs) / sum(seconds):.0%} |"


def pretraining_table(speed: float) -> Iterator[str]:
    """Tell the hours of a pretraining of cmd-l, and what a step moves between GPUs."""
    backbone: Backbone = registry.get("backbones", "cmd-l")
    assert backbone.network is not None
    with torch.device("meta"):
        network = backbone.network(cond_dim=None)
    step = flops.STEP * flops.forward_flops(network, (3, 256, 256)) * BATCH
    moved = 4 * sum(each.numel() for each in network.parameters())
    yield f"{STEPS:,} steps of {BATCH} images of 256 px: {step * STEPS:.2e} FLOPs, "
    yield f"{STEPS * BATCH / PATCHES:.2f} passes over {PATCHES:,} patches."
    yield ""
    yield "| GPUs | images a GPU and step | s a step | at least, h | gradients, GiB a step |"
    yield "| --- | --- | --- | --- | --- |"
    for gpus in GPUS:
        used = min(gpus, BATCH)
        seconds = step / used / speed
        shared = moved / 2**30 if used > 1 else 0
        yield (
            f"| {gpus}{f' ({used} at work)' if used < gpus else ''} | {BATCH // used} | "
            f"{seconds:.3f} | {seconds * STEPS / 3600:.1f} | {shared:.2f} |"
        )


def cache_table() -> Iterator[str]:
    """Tell the room of the features of a million patches."""
    yield "| backbone | px | MiB an image | TiB for a million |"
    yield "| --- | --- | --- | --- |"
    for name, side in (("cmd-l", 256), ("uni", 512), ("h-optimus-0", 504), ("dinov2-s", 504)):
        with torch.device("meta"):
            extractor = open_backbone(name).extractor
        levels = zip(extractor.channels, extractor.strides, strict=True)
        size = 2 * sum(c * (side // s) ** 2 for c, s in levels)
        yield f"| {name} | {side} | {size / 2**20:.2f} | {size * PATCHES / 2**40:.2f} |"


def main(
    peak_tflops: Annotated[float, typer.Option(help="Matrix products, bf16: an H200's.")] = 790,
    share: Annotated[float, typer.Option(help="Of it that a network is assumed to reach.")] = 0.3,
    start_s: Annotated[float, typer.Option(help="Assumed fixed time of a run.")] = 20,
    page: Annotated[Path | None, typer.Option(help="Write the tables into this page.")] = None,
) -> None:
    """Count, and tell the floors."""
    missing: list[str] = []
    speed = peak_tflops * 1e12 * share
    tables = {
        "grid": "\n".join(grid_table(speed, start_s, missing)),
        "pretraining": "\n".join(pretraining_table(speed)),
        "cache": "\n".join(cache_table()),
    }
    if missing:
        tables["grid"] += f"\n\nNot counted: {', '.join(missing)}."
    for table in tables.values():
        out.print(table, markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        page.write_text(filled(page.read_text("utf-8"), tables), "utf-8")


if __name__ == "__main__":
    typer.run(main)
