"""A picture of what the network has learnt: tiles, corrupted, and reconstructed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from bench.pretrain.validate import TIMES, View
from bench.store import write_bytes

GAP_PX = 4
HEADING_PX = 16


def draw(path: Path, seen: Sequence[View]) -> None:
    """Write a grid as PNG: a tile a row; the original, then corrupted and restored at each time.

    Args:
        seen: every tile at each of `TIMES`, in that order.
    """
    side = seen[0].clean.shape[-1]
    rows = [seen[first : first + len(TIMES)] for first in range(0, len(seen), len(TIMES))]
    columns = 1 + 2 * len(TIMES)
    size = (columns * (side + GAP_PX) - GAP_PX, HEADING_PX + len(rows) * (side + GAP_PX) - GAP_PX)
    grid = Image.new("RGB", size, "white")
    for row, of_a_tile in enumerate(rows):
        images = [of_a_tile[0].clean]
        for view in of_a_tile:
            images += [view.corrupted, view.reconstructed]
        for column, image in enumerate(images):
            place = (column * (side + GAP_PX), HEADING_PX + row * (side + GAP_PX))
            grid.paste(_picture(image), place)
    _write_headings(grid, side)
    file = io.BytesIO()
    grid.save(file, "PNG")
    write_bytes(path, file.getvalue())


def _write_headings(grid: Image.Image, side: int) -> None:
    pen = ImageDraw.Draw(grid)
    headings = ["tile"]
    for time in TIMES:
        headings += [f"t = {time}", "network"]
    for column, heading in enumerate(headings):
        pen.text((column * (side + GAP_PX) + 2, 2), heading, fill="black")


def _picture(image: Tensor) -> Image.Image:
    """Turn (1, 3, S, S) in [-1, 1] into a picture."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    return Image.fromarray(pixels.astype(np.uint8))
