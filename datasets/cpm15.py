"""CPM-15: 15 tiles of glioma slides, from the digital pathology challenge of MICCAI 2015.

The release contains `image01.png` and `image01_mask.txt`: width and height, then one label per
pixel in row order. The masks of image04 and image05 are exchanged in the release; the reader
corrects that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.api import Dataset, Labelled
from bench.data.folder import ReleaseFixed
from bench.errors import BenchError

from ._release import check_size, files, partner, read_image

EXCHANGED = ("image04", "image05")
TEST = ("image02", "image06", "image09", "image12", "image15")  # no official split; 20x and 40x
LAST_20X = 7


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `imageNN.png` with `imageNN_mask.txt`."""
    images = {path.stem: path for path in files(raw, r"image\d\d\.png", example="image01.png")}
    masks = {
        name: partner(path, path.with_name(f"{name}_mask.txt")) for name, path in images.items()
    }
    if are_exchanged(images, masks):
        first, second = EXCHANGED
        masks |= {first: masks[second], second: masks[first]}
        message = f"the masks of {first} and {second} were exchanged in the release; corrected"
        warnings.warn(message, ReleaseFixed, stacklevel=2)
    for name, path in images.items():
        image, instances = read_image(path), read_mask(masks[name])
        check_size(image, instances, masks[name])
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
        BenchError: the file does not contain width, height and width * height labels.
    """
    try:
        numbers = np.array(path.read_text(encoding="ascii").split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise BenchError(f"{path} is not an ASCII label file: {error}.") from error
    width, height = numbers[:2] if len(numbers) > 2 else (0, 0)
    labels = numbers[2:]
    right_size = width >= 1 and height >= 1 and len(labels) == width * height
    if not right_size or labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise BenchError(
            f"{path} is not an ASCII label file: expected {width}x{height} labels from 0 to "
            f"2^31 - 1 after the size, got {len(labels)} numbers. Unpack the release again."
        )
    return labels.reshape(height, width).astype(np.int32)


def are_exchanged(images: dict[str, Path], masks: dict[str, Path]) -> bool:
    """Return whether the masks of `EXCHANGED` are exchanged.

    The sizes decide; if they are equal, the assignment with darker labelled pixels is correct.
    """
    if not all(name in images for name in EXCHANGED):
        return False
    first, second = (read_image(images[name]) for name in EXCHANGED)
    mask_1, mask_2 = (read_mask(masks[name]) for name in EXCHANGED)
    if first.shape != second.shape:
        return (mask_1.shape, mask_2.shape) == (second.shape[:2], first.shape[:2])
    if not first.shape[:2] == mask_1.shape == mask_2.shape:
        return False
    as_named = _darkness(first, mask_1) + _darkness(second, mask_2)
    return _darkness(first, mask_2) + _darkness(second, mask_1) > as_named


def _darkness(image: np.ndarray, instances: np.ndarray) -> float:
    """Return the mean of unlabelled minus labelled pixels; nuclei are darker than the rest."""
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
