"""CPM-17: 64 tiles of four cancers, from the digital pathology challenge of MICCAI 2017.

The release contains `train/Images/image_00.png` and `train/Labels/image_00.mat`, whose `inst_map`
is the label, and the same below `test/`: 32 + 32 tiles of GBM, LGG, HNSCC and NSCLC slides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import io

from bench.api import Dataset, Labelled
from bench.data.decode import MAX_PIXELS
from bench.data.folder import ReleaseFixed
from bench.data.metadata import seeded_split
from bench.errors import BenchError

from ._release import check_size, files, partner, read_image

PARTS = ("train", "test")


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `train` and `test`, or one folder with `Images` and `Labels`."""
    paths = files(raw, r"image_\d+\.png", example="Images/image_00.png")
    images = {_id(path): path for path in paths if path.parent.name == "Images"}
    if len(images) != len(paths):
        raise BenchError(
            f"{raw} contains images outside of Images folders, or duplicates: "
            f"{len(paths)} images, {len(images)} usable. Unpack the release into an empty folder."
        )
    splits = _splits(images)
    for name, path in images.items():
        labels = partner(path, path.parent.with_name("Labels") / f"{path.stem}.mat")
        image, instances = read_image(path), read_labels(labels)
        check_size(image, instances, labels)
        yield Labelled(
            id=name, image=image, instances=instances, split=splits[name], patient=f"cpm17-{name}"
        )


def read_labels(path: Path) -> np.ndarray:
    """Read `inst_map` of a MATLAB file into (H, W) int32.

    Raises:
        BenchError: the file cannot be read, is too large, or `inst_map` is not a label image.
    """
    try:
        _check_declared_size(path)
        values = np.asarray(io.loadmat(path, variable_names=["inst_map"])["inst_map"])
    except BenchError:
        raise
    except KeyError:
        raise BenchError(f"{path} has no `inst_map`, so it is not a label of CPM-17.") from None
    except Exception as error:  # the reader may raise anything on a damaged file
        raise BenchError(f"{path} is not a MATLAB file or is damaged: {error}.") from error
    if values.ndim != 2 or values.dtype.kind not in "uif" or (values != np.round(values)).any():
        raise BenchError(f"{path}: inst_map is {values.dtype} {values.shape}, not (H, W) integers.")
    if values.size == 0 or values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise BenchError(f"{path}: inst_map is empty or has values outside 0 .. 2^31 - 1.")
    return values.astype(np.int32)


def _check_declared_size(path: Path) -> None:
    """Raise a BenchError if the header declares more than `MAX_PIXELS`, before reading."""
    for name, shape, _ in io.whosmat(path):
        if name == "inst_map" and math.prod(shape) > MAX_PIXELS:
            size = "x".join(map(str, shape))
            raise BenchError(
                f"{path}: inst_map is declared as {size}; at most {MAX_PIXELS:.0e} pixels are read."
            )


def _id(path: Path) -> str:
    part = path.parent.parent.name
    return f"{part}_{path.stem}" if part in PARTS else path.stem


def _splits(images: dict[str, Path]) -> dict[str, str]:
    parts = {name: path.parent.parent.name for name, path in images.items()}
    if all(part in PARTS for part in parts.values()):
        return parts
    message = "no train and test folders in the release: half of the images were drawn for each"
    warnings.warn(message, ReleaseFixed, stacklevel=2)
    return seeded_split("cpm17", set(images), 0.5)


cpm17 = Dataset(
    name="cpm17",
    release=release,
    title="CPM-17: 64 tiles of brain, head and neck, and lung cancers, 20x and 40x",
    paper="Vu et al. 2019, Front. Bioeng. Biotechnol. 7:53, doi:10.3389/fbioe.2019.00053",
    license="not stated (research use)",
    homepage="https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK",
    sources=("TCGA",),
    input_px={0: 496, 14: 490},
)
