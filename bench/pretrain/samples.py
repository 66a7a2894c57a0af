"""Images of held-out tiles: the original, corrupted and restored."""

from __future__ import annotations

import io
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
    rows = [views[first : first + len(TIMES)] for first in range(0, len(views), len(TIMES))]
    columns = 1 + 2 * len(TIMES)
    width = NAME_PX + columns * (side + GAP_PX) - GAP_PX
    grid = Image.new("RGB", (width, TEXT_PX + len(rows) * (side + TEXT_PX)), "white")
    _write_headings(grid, side)
    for number, row in enumerate(rows):
        _draw_row(grid, row, TEXT_PX + number * (side + TEXT_PX))
    file = io.BytesIO()
    grid.save(file, "PNG")
    write_bytes(path, file.getvalue())


def _draw_row(grid: Image.Image, row: Sequence[TileReconstruction], top: int) -> None:
    """Paste a tile and its views at the height `top`."""
    pen = ImageDraw.Draw(grid)
    side = row[0].clean.shape[-1]
    pen.text((2, top + side // 2 - TEXT_PX // 2), f"tile {row[0].tile + 1}", fill="black")
    grid.paste(_picture(row[0].clean), (_left(0, side), top))
    for number, view in enumerate(row):
        corrupted, restored = 1 + 2 * number, 2 + 2 * number
        grid.paste(_picture(view.corrupted), (_left(corrupted, side), top))
        grid.paste(_picture(view.reconstructed), (_left(restored, side), top))
        pen.text((_left(restored, side), top + side + 2), f"{psnr(view):.1f} dB", fill="black")


def _write_headings(grid: Image.Image, side: int) -> None:
    pen = ImageDraw.Draw(grid)
    headings = ["tile"]
    for time in TIMES:
        headings += [f"t = {time}", "restored"]
    for column, heading in enumerate(headings):
        pen.text((_left(column, side) + 2, 2), heading, fill="black")


def _left(column: int, side: int) -> int:
    return NAME_PX + column * (side + GAP_PX)


def _picture(image: Tensor) -> Image.Image:
    """Convert (1, 3, S, S) in [-1, 1] to an image."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    return Image.fromarray(pixels.astype(np.uint8))
