"""CPM-15: 15 tiles of glioma slides, from the digital pathology challenge of MICCAI 2015.

The release holds `image01.png` and `image01_mask.txt`: width and height, then one label a pixel,
row by row. In it the masks of image04 and image05 are exchanged; here they are put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.api import Dataset, Labelled
from bench.errors import BenchError
from bench.folder import Mended

from ._release import files, partner, picture, same_size

EXCHANGED = ("image04", "image05")
TEST = ("image02", "image06", "image09", "image12", "image15")  # no official split; both powers
LAST_20X = 7


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `imageNN.png` with `imageNN_mask.txt`."""
    images = {path.stem: path for path in files(raw, r"image\d\d\.png", wanted="image01.png")}
    masks = {
        name: partner(path, path.with_name(f"{name}_mask.txt")) for name, path in images.items()
    }
    if exchange(images, masks):
        first, second = EXCHANGED
        masks |= {first: masks[second], second: masks[first]}
        message = f"the masks of {first} and {second} were exchanged in the release; put back"
        warnings.warn(message, Mended, stacklevel=2)
    for name, path in images.items():
        image, instances = picture(path), read_mask(masks[name])
        same_size(image, instances, masks[name])
        yield Labelled(
            id=name,
            image=image,
            instances=instances,
            split="test" if name in TEST else "train",
            patient=f"cpm15-{name}",
            organ="brain",
            magnification="20x" if int(name.removeprefix("image")) <= LAST_20X else "40x",
        )


def read_mask(path: Path) -> np.ndarray:
    """Read an ASCII label file into (H, W) int32.

    Raises:
        BenchError: not integers, or not as many as its first line promises.
    """
    try:
        numbers = np.array(path.read_text(encoding="ascii").split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise BenchError(f"{path} is not an ASCII label file: {error}.") from error
    width, height = numbers[:2] if len(numbers) > 2 else (0, 0)
    labels = numbers[2:]
    if width < 1 or height < 1 or len(labels) != width * height or not _are_labels(labels):
        raise BenchError(
            f"{path} is not an ASCII label file: its first line promises {width}x{height} labels "
            f"from 0 to 2^31 - 1, it has {len(labels)} numbers."
        )
    return labels.reshape(height, width).astype(np.int32)


def _are_labels(labels: np.ndarray) -> bool:
    return bool(labels.min() >= 0 and labels.max() <= np.iinfo(np.int32).max)


def exchange(images: dict[str, Path], masks: dict[str, Path]) -> bool:
    """Tell whether the masks of the known pair are exchanged: by their sizes, else by darkness."""
    if not all(name in images for name in EXCHANGED):
        return False
    first, second = (picture(images[name]) for name in EXCHANGED)
    mask_1, mask_2 = (read_mask(masks[name]) for name in EXCHANGED)
    if first.shape != second.shape:
        return (mask_1.shape, mask_2.shape) == (second.shape[:2], first.shape[:2])
    if not first.shape[:2] == mask_1.shape == mask_2.shape:
        return False
    as_named = _darkness(first, mask_1) + _darkness(second, mask_2)
    return _darkness(first, mask_2) + _darkness(second, mask_1) > as_named


def _darkness(image: np.ndarray, instances: np.ndarray) -> float:
    """How much darker the labelled pixels are than the rest: nuclei are, where the labels fit."""
    labelled = instances > 0
    if labelled.all() or not labelled.any():
        return 0.0
    return float(image[~labelled].mean() - image[labelled].mean())


cpm15 = Dataset(
    name="cpm15",
    release=release,
    title="CPM-15: 15 tiles of glioma slides, 20x and 40x",
    paper="Vu et al. 2019, Front. Bioeng. Biotechnol. 7:53, doi:10.3389/fbioe.2019.00053",
    license="not stated (research use)",
    homepage="https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK",
    sources=("TCGA",),
    input_px={0: 384, 14: 392},
)
