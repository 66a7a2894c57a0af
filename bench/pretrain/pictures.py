"""A picture of what the network has learnt: tiles, corrupted, and restored."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from bench.pretrain.validate import TIMES, View, psnr
from bench.store import write_bytes

GAP_PX = 4
WORDS_PX = 16  # the height of a line of words: the headings, and below each row
NAME_PX = 40  # left of a row


def draw(path: Path, seen: Sequence[View]) -> None:
    """Write a grid as PNG: a tile a row; the original, then corrupted and restored at each time.

    A row is named by the number of its held-out tile, and each restored picture has its PSNR below.

    Args:
        seen: every tile at each of `TIMES`, in that order.
    """
    side = seen[0].clean.shape[-1]
    rows = [seen[first : first + len(TIMES)] for first in range(0, len(seen), len(TIMES))]
    columns = 1 + 2 * len(TIMES)
    width = NAME_PX + columns * (side + GAP_PX) - GAP_PX
    grid = Image.new("RGB", (width, WORDS_PX + len(rows) * (side + WORDS_PX)), "white")
    _write_headings(grid, side)
    for number, of_a_tile in enumerate(rows):
        _draw_row(grid, of_a_tile, WORDS_PX + number * (side + WORDS_PX))
    file = io.BytesIO()
    grid.save(file, "PNG")
    write_bytes(path, file.getvalue())


def _draw_row(grid: Image.Image, of_a_tile: Sequence[View], top: int) -> None:
    """Paste a tile and its views, from that height down, and write what they are."""
    pen = ImageDraw.Draw(grid)
    side = of_a_tile[0].clean.shape[-1]
    pen.text((2, top + side // 2 - WORDS_PX // 2), f"tile {of_a_tile[0].tile + 1}", fill="black")
    grid.paste(_picture(of_a_tile[0].clean), (_left(0, side), top))
    for number, view in enumerate(of_a_tile):
        given, restored = 1 + 2 * number, 2 + 2 * number
        grid.paste(_picture(view.corrupted), (_left(given, side), top))
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
    """Turn (1, 3, S, S) in [-1, 1] into a picture."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    return Image.fromarray(pixels.astype(np.uint8))
