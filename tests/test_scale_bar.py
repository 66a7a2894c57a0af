"""Scale bars: their length, and the pixel size from which it follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bench.figures import features, restored, scale

MANIFEST = "path,magnification\nslide/a.png,20x\nslide/b.png,unknown\n"


def test_the_bar_fits_the_image():
    for width, mpp, length in (
        (1000, 0.25, 50),  # 20 % of the width
        (512, 0.25, 20),  # 50 um would take 39 %
        (128, 0.25, 20),  # 63 %
        (64, 0.25, None),  # wider than the image
        (1000, None, None),
    ):
        assert scale.bar_um(width, mpp) == length


def test_the_bar_has_its_stated_length_and_keeps_the_limits_of_the_axes():
    axes = Figure().add_subplot()
    axes.imshow(np.zeros((300, 400, 3), np.uint8))
    limits = axes.get_xlim(), axes.get_ylim()
    scale.scale_bar(axes, (300, 400), None)
    assert not axes.lines
    assert not axes.texts
    scale.scale_bar(axes, (300, 400), 0.5)
    ends = np.asarray(axes.lines[0].get_xdata(), dtype=float)
    assert ends[1] - ends[0] == 50 / 0.5
    assert [text.get_text() for text in axes.texts] == ["50 µm"]
    assert (axes.get_xlim(), axes.get_ylim()) == limits


def _folder(root: Path) -> Path:
    (root / "slide").mkdir()
    (root / "manifest.csv").write_text(MANIFEST)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for name in "abc":
        Image.fromarray(noise).save(root / "slide" / f"{name}.png")
    return root


def test_the_pixel_size_comes_from_the_manifest_of_a_parent_folder(tmp_path: Path):
    root = _folder(tmp_path)
    sizes = [scale.mpp_of(root / "slide" / f"{name}.png") for name in "abc"]
    assert sizes == [0.5, None, None]
    assert features.of_file(root / "slide" / "a.png", "3,3").mpp == 0.5
    (root / "manifest.csv").write_bytes(b"\xff\xfe\xff")
    assert scale.mpp_of(root / "slide" / "a.png") is None


def test_an_enlarged_crop_has_smaller_pixels(tmp_path: Path):
    tile = _folder(tmp_path) / "slide" / "a.png"
    config = restored.RestoreConfig(file=(tile,), crop_px=128, t=(500,))
    (row,) = restored.restore(config, restored.tiles_of(config), lambda *_: None)
    assert row.mpp == 0.25  # 64 px of 0.5 um, shown as 128
    (whole,) = restored.restore(
        replace(config, crop_px=32), restored.tiles_of(config), lambda *_: None
    )
    assert whole.mpp == 0.5
