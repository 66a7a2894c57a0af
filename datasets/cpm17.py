"""CPM-17: 64 tiles of four cancers, from the digital pathology challenge of MICCAI 2017.

The release holds `train/Images/image_00.png` and `train/Labels/image_00.mat` with the labels in
`inst_map`, and the same below `test/`: 32 and 32 tiles of GBM, LGG, HNSCC and NSCLC slides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import io

from bench.api import Dataset, Labelled
from bench.decode import MAX_PIXELS
from bench.errors import BenchError
from bench.folder import Mended
from bench.patients import seeded_split

from ._release import files, partner, picture, same_size

PARTS = ("train", "test")


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `train` and `test`, or one folder with `Images` and `Labels`."""
    found = files(raw, r"image_\d+\.png", wanted="Images/image_00.png")
    images = {_id(path): path for path in found if path.parent.name == "Images"}
    if len(images) != len(found):
        raise BenchError(f"{raw} holds images outside of Images folders, or one image twice.")
    splits = _splits(images)
    for name, path in images.items():
        labels = partner(path, path.parent.with_name("Labels") / f"{path.stem}.mat")
        image, instances = picture(path), read_labels(labels)
        same_size(image, instances, labels)
        yield Labelled(
            id=name, image=image, instances=instances, split=splits[name], patient=f"cpm17-{name}"
        )


def read_labels(path: Path) -> np.ndarray:
    """Read `inst_map` of a MATLAB file into (H, W) int32; a BenchError says why it cannot."""
    try:
        _refuse_huge(path)
        values = np.asarray(io.loadmat(path, variable_names=["inst_map"])["inst_map"])
    except BenchError:
        raise
    except KeyError:
        raise BenchError(f"{path} holds no `inst_map`, so it is not a label of CPM-17.") from None
    except Exception as error:  # the reader may raise anything on a damaged file
        raise BenchError(f"{path} is not a MATLAB file that can be read: {error}.") from error
    if values.ndim != 2 or values.dtype.kind not in "uif" or (values != np.round(values)).any():
        raise BenchError(f"{path}: inst_map is {values.dtype} {values.shape}, not (H, W) integers.")
    if values.size == 0 or values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise BenchError(f"{path}: inst_map holds numbers that are no labels, or none at all.")
    return values.astype(np.int32)


def _refuse_huge(path: Path) -> None:
    """Refuse, by the headers, what would fill the memory when it is read."""
    for name, shape, _ in io.whosmat(path):
        if name == "inst_map" and math.prod(shape) > MAX_PIXELS:
            size = "x".join(map(str, shape))
            raise BenchError(
                f"{path}: inst_map says it is {size}; at most {MAX_PIXELS:.0e} are read."
            )


def _id(path: Path) -> str:
    part = path.parent.parent.name
    return f"{part}_{path.stem}" if part in PARTS else path.stem


def _splits(images: dict[str, Path]) -> dict[str, str]:
    parts = {name: path.parent.parent.name for name, path in images.items()}
    if all(part in PARTS for part in parts.values()):
        return parts
    message = "no train and test folders in the release: half of the images were drawn for each"
    warnings.warn(message, Mended, stacklevel=2)
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
