"""Read the files of official releases: find them, decode images, label components."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from bench.api.report import several
from bench.data.folder import ReleaseFixed
from bench.data.walk import walk
from bench.errors import BenchError

PARTS = ("train", "test")  # of CPM-17
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def files(raw: Path, pattern: str, *, example: str) -> list[Path]:
    """List the files below `raw` whose names match a regular expression fully, sorted by path.

    Hidden files are skipped and linked folders are followed (see `bench.data.walk`).

    Args:
        raw: the unpacked release.
        pattern: regular expression of the file name, in upper or lower case.
        example: a name that matches, for the error message.

    Raises:
        BenchError: no file matches.
    """
    is_wanted = re.compile(pattern, re.IGNORECASE).fullmatch
    paths = [
        folder / name
        for _, folder, names in walk(raw, Counter())
        for name in names or ()
        if is_wanted(name)
    ]
    if not paths:
        raise BenchError(
            f"{raw} does not contain this release: no file such as {example}. "
            "Unpack the release there."
        )
    return sorted(paths)


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """Return paths by their names without extension, in lower case.

    Raises:
        BenchError: two files have the same name.
    """
    files: dict[str, Path] = {}
    for path in paths:
        first = files.setdefault(path.stem.lower(), path)
        if first != path:
            raise BenchError(f"{path} and {first} have the same name. Delete one copy.")
    return files


def partner(path: Path, other: Path) -> Path:
    """Return `other`, the label that belongs to `path`; upper and lower case are equal.

    Raises:
        BenchError: `other` does not exist.
    """
    label = _in_any_case(other)
    if label is None:
        raise BenchError(f"{path} has no {other.name} in {other.parent}. Unpack the release again.")
    return label


def _in_any_case(path: Path) -> Path | None:
    if path.exists():
        return path
    parent = _in_any_case(path.parent)
    names = {} if parent is None else {entry.name.lower(): entry for entry in parent.iterdir()}
    return names.get(path.name.lower())


def images_and_labels(raw: Path, *, in_parts: bool) -> dict[Path, Path]:
    """Return the label `Labels/image_00.mat` of each image `Images/image_00.png`.

    Other images, such as those of `Overlay`, are left out with a warning.

    Args:
        in_parts: use the images of `train/Images` and `test/Images` if there are any (CPM-17); if
            False, use all others (CPM-15).

    Raises:
        BenchError: there are no such images, or an image has no label.
    """
    example = "Images/image_00.png"
    paths = files(raw, r"image_\d+\.png", example=example)
    images = [path for path in paths if path.parent.name.lower() == "images"]
    parts = [path for path in images if part_of(path) in PARTS]
    if not in_parts:
        images = [path for path in images if path not in parts]
    elif parts:
        images = parts
    if not images:
        raise BenchError(f"{raw} does not contain this release: no file such as {example}.")
    others = [path for path in paths if path not in images]
    if others:
        folders = ", ".join(sorted({str(path.parent.relative_to(raw)) for path in others}))
        report(f"{several(len(others), 'image')} in other folders ({folders}) left out")
    return {
        path: partner(path, path.parent.with_name("Labels") / f"{path.stem}.mat") for path in images
    }


def part_of(image: Path) -> str:
    """Return the name of the folder above `Images` in lower case."""
    return image.parent.parent.name.lower()


def report(correction: str) -> None:
    """Report what was corrected or left out of the release, for the user and its README."""
    warnings.warn(correction, ReleaseFixed, stacklevel=3)


def read_image(path: Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB; a fully opaque alpha channel is dropped.

    Raises:
        BenchError: the file is damaged or not an 8-bit RGB image.
    """
    pixels = _pixels(path)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BenchError(f"{path} is {pixels.dtype} {pixels.shape}, not an 8-bit RGB image.")
    return pixels


def components(path: Path) -> np.ndarray:
    """Read a binary mask and label its 8-connected components, (H, W) int32.

    With 4-connectivity, a nucleus that is one pixel wide on a diagonal would be split.

    Raises:
        BenchError: the file is damaged or has more than two values.
    """
    pixels = _pixels(path)
    if pixels.ndim == 3:
        channels = pixels[..., :3]
        if (channels != channels[..., :1]).any():
            raise BenchError(f"{path} is a colour image, not a mask.")
        pixels = channels[..., 0]
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise BenchError(f"{path} has {len(values)} values, not 0 (background) and one for nuclei.")
    labels, _ = ndimage.label(pixels != 0, EIGHT_NEIGHBOURS)  # pyright: ignore
    return labels.astype(np.int32)


def check_size(image: np.ndarray, instances: np.ndarray, path: Path) -> None:
    """Raise a BenchError if an image and the label read from `path` differ in size."""
    if image.shape[:2] != instances.shape:
        raise BenchError(
            f"{path}: the image is {image.shape[1]}x{image.shape[0]}, its label "
            f"{instances.shape[1]}x{instances.shape[0]}. Unpack the release again."
        )


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG", "TIFF", "JPEG")) as image:
            return np.array(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is damaged or not an image: {error}.") from error
