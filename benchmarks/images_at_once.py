"""Whether several images at once go through a backbone faster than one after the other.

    OMP_NUM_THREADS=2 python benchmarks/images_at_once.py --backbone cmd-tiny --px 256

The same images are mapped in batches of each size, in turn, forwards and then backwards, and the
medians are told; before any time counts, the maps of an image must not depend on its company in a
batch of one size. Whether they are those of the image alone is told: a cache has to keep to one.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bench.cli.console import Json, err, out
from bench.features.numerics import forbid_tf32, numerics
from bench.models.load import open_backbone

IMAGES = 8
SIZES = (1, 2, 4, 8)


def mapped(extract: torch.nn.Module, images: Tensor, size: int) -> list[list[Tensor]]:
    """Map (N, 3, S, S) in batches of one size: a list of maps (1, C, h, w) for each image."""
    maps = []
    for batch in images.split(size):
        levels = extract(batch)
        maps += [[level[i : i + 1] for level in levels] for i in range(len(batch))]
    return maps


def main(
    backbone: Annotated[str, typer.Option(help="NAME, NAME@FILE or NAME@random.")] = "cmd-tiny",
    px: Annotated[int, typer.Option(help="Side of the images.")] = 256,
    repeats: Annotated[int, typer.Option(min=1)] = 4,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write the result here, as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time batches of 1, 2, 4 and 8 images."""
    forbid_tf32()
    extract = open_backbone(backbone).extractor
    images = torch.rand(IMAGES, 3, px, px, generator=torch.Generator().manual_seed(0))
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    with torch.inference_mode():
        alone = mapped(extract, images, 1)
        as_alone = {size: same(mapped(extract, images, size), alone) for size in SIZES}
        for size in SIZES:
            turned = mapped(extract, images.roll(1, 0), size)
            if not same([*turned[1:], turned[0]], mapped(extract, images, size)):
                err.print(f"in batches of {size} the maps of an image depend on its company")
                raise typer.Exit(1)
        for repeat in range(repeats):
            for size in SIZES if repeat % 2 == 0 else SIZES[::-1]:
                began = time.perf_counter()
                mapped(extract, images, size)
                seconds[size].append(time.perf_counter() - began)
    rows = [
        {
            "images_at_once": size,
            "images_per_s": IMAGES / statistics.median(own),
            "as_alone": as_alone[size],
        }
        for size, own in seconds.items()
    ]
    told = {"backbone": backbone, "px": px, "numerics": numerics(torch.device("cpu")), "rows": rows}
    if to is not None:
        to.write_text(json.dumps(told, indent=1) + "\n")
    if as_json:
        print(json.dumps(told))
        return
    for row in rows:
        maps = "the maps of one alone" if row["as_alone"] else "other last bits than one alone"
        out.print(f"{row['images_at_once']} at once: {row['images_per_s']:.2f} images/s, {maps}")


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    """Tell whether the maps of all images are equal to the bit."""
    return all(
        torch.equal(*levels)
        for pair in zip(a, b, strict=True)
        for levels in zip(*pair, strict=True)
    )


if __name__ == "__main__":
    typer.run(main)
