"""Images of held-out tiles: the original, corrupted and restored."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from bench.pretrain.validate import TIMES, TileReconstruction, psnr
from bench.store.files import write_bytes

GAP_PX = 4
TEXT_PX = 16  # height of a line of text
NAME_PX = 40  # width of the row names


def draw(path: Path, views: Sequence[TileReconstruction]) -> None:
    """Write a grid as PNG, with one row per tile.

    A row has the original, then the corrupted and the restored tile at each time step, with the
    PSNR below.

    Args:
        views: every tile at each of `TIMES`, in this order.
    """
    side = views[0].clean.shape[-1]
    headings = ["tile"]
    for time in TIMES:
        headings += [f"t = {time}", "restored"]
    lefts = [NAME_PX + column * (side + GAP_PX) for column in range(len(headings))]
    rows = math.ceil(len(views) / len(TIMES))
    grid = Image.new("RGB", (lefts[-1] + side, TEXT_PX + rows * (side + TEXT_PX)), "white")
    pen = ImageDraw.Draw(grid)
    for left, heading in zip(lefts, headings, strict=True):
        pen.text((left + 2, 2), heading, fill="black")
    for number, view in enumerate(views):
        row, time = divmod(number, len(TIMES))
        top = TEXT_PX + row * (side + TEXT_PX)
        if time == 0:
            name = f"tile {view.tile + 1}"
            pen.text((2, top + side // 2 - TEXT_PX // 2), name, fill="black")
            grid.paste(_picture(view.clean), (lefts[0], top))
        corrupted, restored = lefts[1 + 2 * time], lefts[2 + 2 * time]
        grid.paste(_picture(view.corrupted), (corrupted, top))
        grid.paste(_picture(view.reconstructed), (restored, top))
        pen.text((restored, top + side + 2), f"{psnr(view):.1f} dB", fill="black")
    file = io.BytesIO()
    grid.save(file, "PNG")
    write_bytes(path, file.getvalue())


def _picture(image: Tensor) -> Image.Image:
    """Convert (1, 3, S, S) in [-1, 1] to an image."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    return Image.fromarray(pixels.astype(np.uint8))
