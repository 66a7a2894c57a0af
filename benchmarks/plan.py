"""Least hours of the paper's grid and of a pretraining on 1, 8 and 64 GPUs.

    python benchmarks/plan.py --page docs/scale.md

FLOPs counted on the meta device divided by an assumed speed: a lower bound, not a measurement. The
time of starting a run, reading and launching small kernels is added as a fixed time per run.
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
    "conch", "conch-v1.5", "h-optimus-0", "h-optimus-1", "hibou-l", "kaiko-l14", "musk",
    "midnight-12k", "pathorchestra", "phikon", "phikon-v2", "gigapath", "uni", "uni2-h", "virchow",
    "virchow2", "vista-path", "cmd-l", "transunet", "nnunet", "vit-adapter-l",
)  # fmt: skip
TABLE_5 = ("cmd-l", "h-optimus-1", "uni2-h", "transunet", "vit-adapter-l")
SHOTS, DRAWS = (1, 5, 10), 5
STEPS, BATCH, PATCHES = 80_000, 128, 1_000_000  # the batch size of the works the paper builds on


@dataclass(frozen=True)
class Run:
    """The FLOPs of a run: of its features, which are computed once, and of its training."""

    name: str
    features: float
    training: float

    @property
    def total(self) -> float:
        """All FLOPs."""
        return self.features + self.training


@cache
def costs(name: str) -> tuple[float, float, bool, Recipe]:
    """Return the FLOPs of extractor and head, whether the extractor trains, and its recipe."""
    backbone: Backbone = registry.get("backbones", name)
    plugin = registry.get("heads", backbone.default_head)
    with torch.device("meta"):
        extractor = open_backbone(name).extractor
        side = backbone.input_px or (504 if max(extractor.strides) == 14 else 512)
        image = torch.empty(1, 3, side, side)
        head: Head = plugin.build(extractor.channels, extractor.strides, 2)
        levels = zip(extractor.channels, extractor.strides, strict=True)
        maps = [torch.empty(1, c, side // s, side // s) for c, s in levels]
    trains = any(weight.requires_grad for weight in extractor.parameters())
    return (
        flops.count_flops(extractor, lambda module: module(image)),
        flops.count_flops(head.eval(), lambda module: module(maps, (side, side))),
        trains,
        backbone.recipe if trains else Recipe(),
    )


def run_of(name: str, dataset: str, trained_on: int, trainings: int = 1) -> Run:
    """Return the cost of a run that scores all images of a data set."""
    extractor, head, trains, recipe = costs(name)
    images = recipe.epochs * trained_on * trainings
    training = flops.STEP * images * (head + (extractor if trains else 0))
    return Run(f"{name} on {dataset}", extractor * IMAGES[dataset], training)


def grid(missing: dict[str, str]) -> Iterator[Run]:
    """Yield the runs of Tables 4 and 5; add backbones that cannot be built to `missing`."""
    for name in TABLE_4:
        try:
            for dataset in ("cpm15", "cpm17", "tnbc"):
                yield run_of(name, dataset, IMAGES[dataset])
        except (BenchError, RuntimeError) as error:
            missing[name] = str(error).partition(":")[0]
    for name in TABLE_5:
        if name not in missing:
            for dataset in ("cpm17", "tnbc"):
                for shots in SHOTS:
                    yield run_of(name, dataset, shots, DRAWS)


def grid_table(speed: float, start_s: float) -> Iterator[str]:
    """Yield the hours of the grid; runs are independent, so the longest is a lower bound."""
    missing: dict[str, str] = {}
    runs = list(grid(missing))
    seconds = [run.total / speed + start_s for run in runs]
    longest = runs[seconds.index(max(seconds))]
    total = sum(run.total for run in runs)
    share = sum(run.features for run in runs) / total
    yield f"{len(runs)} runs, {total:.2e} FLOPs, of which features that"
    yield f"are cached {share:.0%}. The longest run is {longest.name}: {max(seconds) / 60:.1f} min."
    yield ""
    yield "| GPUs | at least, h | of it, fixed time of runs |"
    yield "| --- | --- | --- |"
    for gpus in GPUS:
        whole = max(sum(seconds) / gpus, max(seconds))
        yield f"| {gpus} | {whole / 3600:.2f} | {start_s * len(runs) / sum(seconds):.0%} |"
    if missing:
        reasons = [f"{name} ({reason})" for name, reason in missing.items()]
        yield f"\nNot counted: {', '.join(reasons)}."


def pretraining_table(speed: float) -> Iterator[str]:
    """Yield the hours of a pretraining of cmd-l, and the bytes of the gradients of a step."""
    backbone: Backbone = registry.get("backbones", "cmd-l")
    assert backbone.network is not None
    with torch.device("meta"):
        network = backbone.network(cond_dim=None)
    step = flops.STEP * flops.forward_flops(network, (3, 256, 256)) * BATCH
    gradients_gib = 4 * sum(weight.numel() for weight in network.parameters()) / 2**30
    yield f"{STEPS:,} steps of {BATCH} images of 256 px: {step * STEPS:.2e} FLOPs, "
    yield f"{STEPS * BATCH / PATCHES:.2f} passes over {PATCHES:,} patches."
    yield ""
    yield "| GPUs | images a GPU and step | s a step | at least, h | gradients, GiB a step |"
    yield "| --- | --- | --- | --- | --- |"
    for gpus in GPUS:
        seconds = step / gpus / speed
        yield (
            f"| {gpus} | {BATCH // gpus} | {seconds:.3f} | {seconds * STEPS / 3600:.1f} | "
            f"{gradients_gib if gpus > 1 else 0:.2f} |"
        )


def cache_table() -> Iterator[str]:
    """Yield the size of the cached features of a million patches."""
    yield "| backbone | px | MiB an image | TiB for a million |"
    yield "| --- | --- | --- | --- |"
    for name, side in (("cmd-l", 256), ("uni", 512), ("h-optimus-0", 504), ("dinov2-s", 504)):
        with torch.device("meta"):
            extractor = open_backbone(name).extractor
        levels = zip(extractor.channels, extractor.strides, strict=True)
        size = 2 * sum(c * (side // s) ** 2 for c, s in levels)
        yield f"| {name} | {side} | {size / 2**20:.2f} | {size * PATCHES / 2**40:.2f} |"


def main(
    peak_tflops: Annotated[float, typer.Option(help="Of bf16 matrix products; an H200's.")] = 790,
    share: Annotated[float, typer.Option(help="Share of it that a network reaches.")] = 0.3,
    start_s: Annotated[float, typer.Option(help="Fixed time of a run.")] = 20,
    page: Annotated[Path | None, typer.Option(help="Write the tables into this page.")] = None,
) -> None:
    """Count the FLOPs, and print the tables."""
    speed = peak_tflops * 1e12 * share
    tables = {
        "grid": "\n".join(grid_table(speed, start_s)),
        "pretraining": "\n".join(pretraining_table(speed)),
        "cache": "\n".join(cache_table()),
    }
    for table in tables.values():
        out.print(table, markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        page.write_text(filled(page.read_text("utf-8"), tables), "utf-8")


if __name__ == "__main__":
    typer.run(main)
