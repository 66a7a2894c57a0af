"""Read annotations of Aperio ImageScope (XML) and draw them as instance labels.

A file contains `Region` elements with the vertices of outlines. Besides nuclei, users draw holes
(`NegativeROA="1"`), ellipses (`Type="2"`), arrows, rulers, and frames around the annotated area.
"""

from __future__ import annotations

import xml.parsers.expat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.errors import BenchError

ELLIPSE, RECTANGLE = "2", "1"  # values of `Type`
ELLIPSE_VERTICES = 72
LARGEST_COORDINATE = 1e9
LARGEST_NUCLEUS = 0.25  # share of the image; a larger region is a frame
FEWEST_FRAMED = 3  # outlines inside a frame that is not a rectangle
MOST_OUTSIDE = 0.05  # share of outlines that may be outside of the image
SMALLEST_EXTENT = 0.85  # share of width and height that many outlines reach at least
CHANCE = 1e-4

FRAMES = "frames around nuclei"
TOO_FEW = "regions with fewer than three vertices"
OUTSIDE = "nuclei outside of the image"
NO_PIXEL = "nuclei without a visible pixel"


@dataclass(frozen=True)
class Region:
    """An outline: the vertices (x, y), (n, 2) float64 in px, of a nucleus, a hole or a frame."""

    points: np.ndarray
    is_hole: bool = False

    @property
    def box(self) -> np.ndarray:
        """The smallest and the largest x and y, (2, 2)."""
        return np.stack([self.points.min(axis=0), self.points.max(axis=0)])

    @property
    def area(self) -> float:
        """The enclosed area in px."""
        x, y = self.points.T
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    @property
    def is_rectangle(self) -> bool:
        """Whether all vertices are corners of the bounding box."""
        (left, top), (right, bottom) = self.box
        x, y = self.points.T
        return bool(
            len(x) >= 4 and np.isin(x, (left, right)).all() and np.isin(y, (top, bottom)).all()
        )


@dataclass
class Annotation:
    """The regions of a file in their order, and its `MicronsPerPixel` ("" if it has none)."""

    path: Path
    regions: list[Region] = field(default_factory=list)
    too_few: int = 0
    mpp: str = ""


def read_annotation(path: Path) -> Annotation:
    """Read the regions of all layers of a file; ellipses are converted to polygons.

    Raises:
        BenchError: not such a file, or it declares a document type, which could expand entities
            without limit or open other files.
    """
    annotation = Annotation(path)
    elements: list[tuple[dict[str, str], list[tuple[float, float]]]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "Annotations":
            annotation.mpp = attributes.get("MicronsPerPixel", "")
        elif tag == "Region":
            elements.append((attributes, []))
        elif tag == "Vertex":
            elements[-1][1].append((float(attributes["X"]), float(attributes["Y"])))

    def refuse(*_: object) -> None:
        raise ValueError("document type declarations are not allowed")

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        for attributes, vertices in elements:
            points = _polygon(attributes.get("Type", ""), vertices)
            if len(points) < 3:
                annotation.too_few += 1
            else:
                is_hole = attributes.get("NegativeROA", "0") == "1"
                annotation.regions.append(Region(points, is_hole))
    except (xml.parsers.expat.ExpatError, ValueError, KeyError, IndexError) as error:
        raise BenchError(f"{path} is not an ImageScope annotation: {error}.") from error
    if not annotation.regions:
        raise BenchError(f"{path} is not an ImageScope annotation: it has no Region with vertices.")
    return annotation


def _polygon(kind: str, vertices: list[tuple[float, float]]) -> np.ndarray:
    """Return the polygon of a region, (n, 2); ellipses and rectangles may be given by corners."""
    points = np.array(vertices, dtype=np.float64).reshape(-1, 2)
    if not (np.abs(points) < LARGEST_COORDINATE).all():
        raise ValueError("a coordinate is not a number of px")
    if kind == ELLIPSE and 2 <= len(points) <= 4:
        centre = (points.max(axis=0) + points.min(axis=0)) / 2
        radii = (points.max(axis=0) - points.min(axis=0)) / 2
        turn = np.arange(ELLIPSE_VERTICES) * (2 * np.pi / ELLIPSE_VERTICES)
        return centre + radii * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if kind == RECTANGLE and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return points


def draw(annotation: Annotation, shape: tuple[int, int]) -> tuple[np.ndarray, Counter[str]]:
    """Draw the nuclei of an annotation as (H, W) int32 labels, and count what is left out.

    Label n is the n-th nucleus of the file, from 1. Where nuclei overlap, the earlier one wins. A
    hole is cut out of the nuclei that contain it, so that a nucleus may be inside the hole of
    another; a hole that no nucleus contains is background everywhere. The order of regions in the
    file and their layers have no effect on holes.

    Raises:
        BenchError: the coordinates do not fit the image.
    """
    left_out = Counter({TOO_FEW: annotation.too_few})
    outlines = [region for region in annotation.regions if not region.is_hole]
    boxes = np.array([region.box for region in outlines]).reshape(-1, 2, 2)
    nuclei = [region for region in outlines if not _is_frame(region, boxes, shape)]
    left_out[FRAMES] = len(outlines) - len(nuclei)
    _check_scale(annotation, nuclei, shape)
    masks = [_fill(region.points, shape) for region in nuclei]
    left_out[OUTSIDE] = sum(mask is None for mask in masks)
    holes = [_fill(region.points, shape) for region in annotation.regions if region.is_hole]
    background = _cut_holes([h for h in holes if h], [m for m in masks if m], shape)
    instances = np.zeros(shape, dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        if mask is not None:
            window = instances[mask.window]
            window[mask.pixels & (window == 0)] = number
    instances[background] = 0
    drawn = len(np.unique(instances[instances > 0]))
    left_out[NO_PIXEL] = len(nuclei) - left_out[OUTSIDE] - drawn
    return instances, +left_out


def _is_frame(region: Region, boxes: np.ndarray, shape: tuple[int, int]) -> bool:
    """Return whether a region is too large for a nucleus, or encloses outlines.

    Args:
        boxes: the bounding boxes of all outlines, (n, 2, 2), with that of the region.
    """
    if region.area > LARGEST_NUCLEUS * shape[0] * shape[1]:
        return True
    smallest, largest = region.box
    in_box = (boxes[:, 0] >= smallest).all(axis=1) & (boxes[:, 1] <= largest).all(axis=1)
    inside = boxes[in_box & (boxes != region.box).any(axis=(1, 2))]
    if region.is_rectangle:
        return len(inside) > 0
    return sum(bool(_inside(region.points, *box.T).all()) for box in inside) >= FEWEST_FRAMED


def _check_scale(annotation: Annotation, nuclei: Sequence[Region], shape: tuple[int, int]) -> None:
    """Raise a BenchError if outlines are outside of the image, or only in its upper left part.

    The second is also rare by chance: n evenly distributed nuclei are all within a part of width
    and height f with probability f^2n.
    """
    if not nuclei:
        return
    height, width = shape
    boxes = np.array([region.box for region in nuclei])  # (n, 2, 2)
    centres, largest = boxes.mean(axis=1), boxes.max(axis=(0, 1))
    outside = int(((centres < 0) | (centres > (width, height))).any(axis=1).sum())
    extent = float((largest / (width, height)).max())
    if outside > max(1, MOST_OUTSIDE * len(nuclei)) or outside == len(nuclei):
        problem = f"{outside} of its {len(nuclei)} nuclei are outside of the image"
    elif extent < SMALLEST_EXTENT and extent ** (2 * len(nuclei)) < CHANCE:
        problem = f"all of its {len(nuclei)} nuclei are in the upper left corner of the image"
    else:
        return
    scale = f"MicronsPerPixel is {annotation.mpp}; " if annotation.mpp else ""
    raise BenchError(
        f"{annotation.path} does not fit its image: {problem}. Its vertices reach x = "
        f"{largest[0]:.0f} and y = {largest[1]:.0f}; the image is {width}x{height} ({scale}"
        "vertices must be in px of this image). Convert X and Y, or use the annotated image."
    )


@dataclass(frozen=True)
class _Mask:
    """The pixels of a region, (h, w) bool, within a window of the image."""

    window: tuple[slice, slice]
    pixels: np.ndarray


def _fill(points: np.ndarray, shape: tuple[int, int]) -> _Mask | None:
    """Return the pixels whose centre, (column + 0.5, row + 0.5), is inside a polygon.

    None if the polygon's bounding box is outside of the image or empty.
    """
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int), shape[::-1])
    if right <= left or bottom <= top:
        return None
    xs, ys = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    return _Mask((slice(top, bottom), slice(left, right)), _inside(points, xs, ys))


def _cut_holes(
    holes: Sequence[_Mask], nuclei: Sequence[_Mask], shape: tuple[int, int]
) -> np.ndarray:
    """Cut each hole out of the nuclei that contain most of it; return the other holes, (H, W)."""
    background = np.zeros(shape, dtype=bool)
    for hole in holes:
        pixels = np.zeros(shape, dtype=bool)
        pixels[hole.window] = hole.pixels
        inside = [m for m in nuclei if 2 * (pixels[m.window] & m.pixels).sum() > hole.pixels.sum()]
        for mask in inside:
            mask.pixels[pixels[mask.window]] = False
        if not inside:
            background |= pixels
    return background


def _inside(points: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Return which points (y, x) are inside a polygon by the even-odd rule, (len(ys), len(xs))."""
    inside = np.zeros((len(ys), len(xs)), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossed = (y0 > ys) != (y1 > ys)
        if crossed.any():
            crossing_x = x0 + (ys[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= xs[None, :] > crossing_x[:, None]
    return inside
