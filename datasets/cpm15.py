"""CPM-15: 15 tiles of glioma slides, from the digital pathology challenge of MICCAI 2015.

The release contains `image01.png` and `image01_mask.txt`: width and height, then one label per
pixel in row order. The masks of image04 and image05 are exchanged in the release; the reader
corrects that. The authors of HoVer-Net distribute the same images as `Images/image_00.png` with
`Labels/image_00.mat` (`homepage`); they are recognised by their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.api import Dataset, Labelled
from bench.api.report import several
from bench.errors import BenchError

from ._matlab import read_instances
from ._release import by_stem, check_size, files, images_and_labels, partner, read_image, report

EXCHANGED = ("image04", "image05")
TEST = (2, 6, 9, 12, 15)  # no official split; 20x and 40x
LAST_20X = 7
SIZES = (
    *("643x488", "488x490", "751x587", "623x493", "863x597", "459x392", "439x439", "798x596"),
    *("801x888", "1032x808", "677x696", "793x669", "641x589", "461x498", "552x526"),
)
"""Width and height of image01 to image15; no two are equal."""


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release, or the same images in MATLAB format."""
    pairs = _pairs(raw)
    if are_exchanged(pairs):
        first, second = EXCHANGED
        (image_1, mask_1), (image_2, mask_2) = pairs[first], pairs[second]
        pairs |= {first: (image_1, mask_2), second: (image_2, mask_1)}
        report(f"the masks of {first} and {second} were exchanged in the release; corrected")
    for name, (path, mask) in pairs.items():
        image, instances = read_image(path), read_mask(mask)
        check_size(image, instances, mask)
        is_original, number = "_" not in name, _number(name)
        yield Labelled(
            id=name,
            image=image,
            instances=instances,
            split="test" if number in TEST else "train",
            patient=f"cpm15-{name}",
            organ="brain",
            magnification=("20x" if number <= LAST_20X else "40x") if is_original else "unknown",
        )


def _pairs(raw: Path) -> dict[str, tuple[Path, Path]]:
    """Return the image and the mask of each name; images of the original release have its names."""
    paths = files(raw, r"image_?\d+\.png", example="image01.png")
    originals = by_stem([path for path in paths if "_" not in path.stem])
    if originals:
        if len(originals) < len(paths):
            count = several(len(paths) - len(originals), "image")
            report(f"{count} of another form (image_00.png) left out")
        return {
            name: (path, partner(path, path.with_name(f"{name}_mask.txt")))
            for name, path in originals.items()
        }
    labels = images_and_labels(raw, in_parts=False)
    images = by_stem([*labels])
    names = {name: _original_name(path) or name for name, path in images.items()}
    if len(set(names.values())) < len(names):
        names = {name: name for name in names}
    unknown = sum("_" in name for name in names.values())
    if unknown:
        count = several(unknown, "image")
        report(f"the magnification of {count} is unknown: no original has this size")
    return {names[name]: (path, labels[path]) for name, path in images.items()}


def _original_name(path: Path) -> str:
    """Return the name of an image in the original release; empty if none has its size."""
    height, width, _ = read_image(path).shape
    size = f"{width}x{height}"
    return f"image{SIZES.index(size) + 1:02d}" if size in SIZES else ""


def _number(name: str) -> int:
    """Return the number of an image, from 1; those in MATLAB format are counted from 0."""
    digits = name.removeprefix("image")
    return int(digits[1:]) + 1 if digits.startswith("_") else int(digits)


def read_mask(path: Path) -> np.ndarray:
    """Read an ASCII or MATLAB label file into (H, W) int32.

    Raises:
        BenchError: the file is damaged, or an ASCII file does not contain width, height and width *
            height labels.
    """
    if path.suffix.lower() == ".mat":
        return read_instances(path)
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


def are_exchanged(pairs: dict[str, tuple[Path, Path]]) -> bool:
    """Return whether the masks of `EXCHANGED` are exchanged.

    The sizes decide; if they are equal, the assignment with darker labelled pixels is correct.
    """
    if not all(name in pairs for name in EXCHANGED):
        return False
    first, second = (read_image(pairs[name][0]) for name in EXCHANGED)
    mask_1, mask_2 = (read_mask(pairs[name][1]) for name in EXCHANGED)
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
