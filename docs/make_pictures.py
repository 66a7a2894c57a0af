"""Draw the pictures of the README: `python docs/make_pictures.py` (from the checkout)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import grey_dilation, grey_erosion

from bench.data import find

HERE = Path(__file__).parent
SHOWN = ("p01_1", "p03_1", "p05_1", "p07_1", "p09_1", "p11_1")
GAP_PX = 6


def outlined(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Draw the border of every instance, (H, W) int, onto (H, W, 3) uint8 RGB."""
    drawn = image.copy()
    edge = grey_dilation(instances, 3) != grey_erosion(instances, 3)
    drawn[edge] = (255, 220, 0)
    return drawn


def synthetic() -> Image.Image:
    """Lay out one image of each of six patients above its exact labels."""
    samples = {sample.id: sample for sample in find("synthetic").samples}
    columns = []
    for name in SHOWN:
        image, instances = samples[name].read()
        gap = np.full((GAP_PX, image.shape[1], 3), 255, np.uint8)
        columns.append(np.concatenate([image, gap, outlined(image, instances)]))
    gap = np.full((columns[0].shape[0], GAP_PX, 3), 255, np.uint8)
    row = [part for column in columns for part in (column, gap)][:-1]
    return Image.fromarray(np.concatenate(row, axis=1))


if __name__ == "__main__":
    synthetic().save(HERE / "synthetic.jpg", quality=88)
