"""Kumar, the MoNuSeg 2018 training images: 30 images of 30 patients and seven organs.

The release contains `TCGA-xx-xxxx-....tif`, 1000x1000, and outlines of the same name in `.xml`. The
split is that of Kumar et al.: 16 training images, 8 test images of the same and 6 of other organs.
"""

from __future__ import annotations

import warnings
import xml.parsers.expat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.api import Dataset, Labelled
from bench.data.folder import ReleaseFixed
from bench.errors import BenchError

from ._release import files, read_image

TRAIN = {
    **dict.fromkeys(("18-5592", "21-5784", "38-6178", "50-5931"), "liver"),
    **dict.fromkeys(("A7-A13E", "AR-A1AK", "AR-A1AS", "E2-A14V"), "breast"),
    **dict.fromkeys(("B0-5711", "HE-7128", "HE-7129", "HE-7130"), "kidney"),
    **dict.fromkeys(("G9-6348", "G9-6356", "G9-6362", "G9-6363"), "prostate"),
}
TEST = {
    **dict.fromkeys(("21-5786", "49-4488"), "liver"),
    **dict.fromkeys(("A7-A13F", "E2-A1B5"), "breast"),
    **dict.fromkeys(("B0-5698", "B0-5710"), "kidney"),
    **dict.fromkeys(("CH-5767", "G9-6336"), "prostate"),
    **dict.fromkeys(("DK-A2I6", "G2-A2EK"), "bladder"),
    **dict.fromkeys(("AY-A8YK", "NH-A8F7"), "colon"),
    **dict.fromkeys(("KB-A93J", "RD-A8N9"), "stomach"),
}
"""Patient to organ as in the paper's table; some organs disagree with the TCGA site codes."""

Outline = list[tuple[float, float]]


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `.tif` images and `.xml` outlines, in one folder or in two."""
    outlines = {path.stem: path for path in files(raw, r"TCGA-.*\.xml", example="TCGA-*.xml")}
    images = {path.stem: path for path in files(raw, r"TCGA-.*\.tif", example="TCGA-*.tif")}
    organs = TRAIN | TEST
    extra = sorted(name for name in images if name[5:12] not in organs)
    if extra:
        warnings.warn(f"left out, not of the 30: {', '.join(extra)}", ReleaseFixed, stacklevel=2)
    absent = set(organs) - {name[5:12] for name in images}
    if absent:
        message = f"{len(absent)} of the 30 images are not in the release folder: "
        warnings.warn(message + ", ".join(sorted(absent)), ReleaseFixed, stacklevel=2)
    for name in sorted(set(images) - set(extra)):
        if name not in outlines:
            raise BenchError(
                f"{images[name]} has no {name}.xml below {raw}. Unpack the release again."
            )
        image = read_image(images[name])
        yield Labelled(
            id=name,
            image=image,
            instances=draw(read_outlines(outlines[name]), image.shape[:2]),
            split="train" if name[5:12] in TRAIN else "test",
            patient=name[:12].lower(),
            organ=organs[name[5:12]],
            magnification="40x",
        )


def read_outlines(path: Path) -> list[Outline]:
    """Read the outlines of an ImageScope annotation: the (x, y) of the vertices of each region.

    Raises:
        BenchError: not such a file, or it declares a document type, which could expand entities
            without limit or open other files.
    """
    outlines: list[Outline] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "Region":
            outlines.append([])
        elif tag == "Vertex":
            outlines[-1].append((float(attributes["X"]), float(attributes["Y"])))

    def refuse(*_: object) -> None:
        raise ValueError("document type declarations are not allowed")

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (xml.parsers.expat.ExpatError, ValueError, KeyError, IndexError) as error:
        raise BenchError(f"{path} is not an ImageScope annotation: {error}.") from error
    if not outlines:
        raise BenchError(f"{path} is not an ImageScope annotation: it has no Region.")
    return outlines


def draw(outlines: list[Outline], shape: tuple[int, int]) -> np.ndarray:
    """Fill outlines into (H, W) int32 labels.

    A pixel belongs to a nucleus if its centre, (column + 0.5, row + 0.5), is inside the outline by
    the even-odd rule. Where nuclei overlap, the earlier one wins.

    Args:
        outlines: the vertices (x, y) of each nucleus; label n is the n-th outline, from 1.
        shape: (H, W).
    """
    instances = np.zeros(shape, dtype=np.int32)
    for number, outline in enumerate(outlines, start=1):
        points = np.array(outline).reshape(-1, 2)
        if len(points) < 3 or not np.isfinite(points).all():
            continue
        left, top = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int), shape[::-1])
        if right <= left or bottom <= top:
            continue
        window = instances[top:bottom, left:right]
        xs, ys = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
        window[_inside(points, xs, ys) & (window == 0)] = number
    return instances


def _inside(points: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Return which points (y, x) are inside a polygon by the even-odd rule, (len(ys), len(xs))."""
    inside = np.zeros((len(ys), len(xs)), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossed = (y0 > ys) != (y1 > ys)
        if crossed.any():
            crossing_x = x0 + (ys[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= xs[None, :] > crossing_x[:, None]
    return inside


kumar = Dataset(
    name="kumar",
    release=release,
    title="Kumar (MoNuSeg 2018 training): 30 images of 30 patients, seven organs, 40x",
    paper="Kumar et al. 2017, IEEE TMI 36(7):1550-1560, doi:10.1109/TMI.2017.2677499",
    license="CC BY-NC-SA 4.0",
    homepage="https://monuseg.grand-challenge.org/Data/",
    sources=("TCGA",),
    input_px={0: 512, 14: 504},
)
