"""Detect labels that are not instance maps: class maps, masks, ignore values, altered numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import BenchError

MAX_SPLIT_SHARE = 0.1  # of the numbers, in several components; at most 0.03 in 217 real images
MAX_COMPONENTS = 5  # of one number; at most 4 in 217 real images
MAX_COVERAGE = 0.25  # of an image, by one nucleus; at most 0.09 in 217 real images
MAX_SPAN = 0.5  # of an image, by the bounding box of a nucleus; at most 0.17 in 217 real images
MEDIAN_IF_ALTERED = 20  # components per number; wrapped numbers have fewer
FEW_CLASSES = 20
MAX_OF_DTYPE = (255, 65535)
MAX_SHOWN = 3  # files in one message

ACCEPT = "`bench datasets make --accept-labels` accepts them as they are and marks all runs."
COMPONENTS_MERGE = "connected components, as of scipy.ndimage.label, would merge touching nuclei"
HOW_TO_FIX = {
    "background": "0 must be the background, and nothing else: set the number of the background, "
    "or of ignored regions, to 0, as in labels[labels == NUMBER] = 0; invert an inverted mask.",
    "mask": "Use the instance labels of the source, with one number per nucleus; if there are only "
    "masks, `--binary` counts each connected component as a nucleus, also touching nuclei.",
    "wrapped": "Save the original numbers again with more bits, for example as 16-bit PNG: "
    "Image.fromarray(labels.astype('uint16')).save('NAME.png').",
    "ignored": "If it marks ignored pixels or borders, set it to 0, as in "
    "labels[labels == NUMBER] = 0; else every nucleus needs a number of its own.",
    "classes": "Use the instance map of the source, with one number per nucleus (for example "
    f"inst_map in place of type_map); {COMPONENTS_MERGE}.",
    "altered": "Restore the original labels; resize labels only by nearest neighbour (order 0), "
    f"and save them as PNG, never as JPEG; {COMPONENTS_MERGE}.",
}


@dataclass(frozen=True)
class Regions:
    """The pixels and connected components of each number of a label.

    Attributes:
        shape: height and width of the label.
        areas: pixels of each number from 0 to the highest.
        components: 8-connected components of each number.
        spanned: fraction of the image in the bounding box of the largest nucleus.
    """

    shape: tuple[int, int]
    areas: np.ndarray
    components: np.ndarray
    spanned: float

    @property
    def ids(self) -> np.ndarray:
        """The numbers of nuclei, ascending."""
        return np.flatnonzero(self.areas[1:]) + 1

    @property
    def split_ids(self) -> np.ndarray:
        """The numbers of nuclei with several connected components, ascending."""
        return np.flatnonzero(self.components[1:] > 1) + 1

    @property
    def most_split_id(self) -> int:
        """The number of the nucleus with the most connected components."""
        return int(self.components[1:].argmax()) + 1


def regions_of(instances: np.ndarray) -> Regions:
    """Measure the numbers of a label, (H, W), none of which is negative.

    Runs of equal pixels in a row are the nodes of a graph; its edges connect runs of the same
    number that touch in the next row.
    """
    from scipy import sparse  # slow to import
    from scipy.sparse.csgraph import connected_components

    labels = instances.astype(np.uint16 if instances.max() < 2**16 else np.int64)
    height, width = labels.shape
    starts = np.ones((height, width), bool)  # where a run begins
    np.not_equal(labels[:, 1:], labels[:, :-1], out=starts[:, 1:])
    run = np.cumsum(starts.ravel(), dtype=np.int32) - 1  # of each pixel
    flat = labels.ravel()
    edges = []
    overlaps = np.flatnonzero(starts[:-1] | starts[1:])  # where an overlap of two runs may begin
    corners = np.flatnonzero(starts[:-1] & starts[1:])  # where two runs may touch diagonally
    corners = corners[corners % width > 0]
    for upper, lower in (
        (overlaps, overlaps + width),
        (corners - 1, corners + width),
        (corners, corners + width - 1),
    ):
        is_same = (flat[upper] == flat[lower]) & (flat[upper] > 0)
        edges.append((run[upper[is_same]], run[lower[is_same]]))
    tops, bottoms = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    runs = int(run[-1]) + 1
    graph = sparse.coo_array((np.ones(len(tops), bool), (tops, bottoms)), (runs, runs))
    count, component = connected_components(graph, directed=False)
    begins = np.flatnonzero(starts)
    number = flat[begins]  # of each run
    lengths = np.diff(begins, append=labels.size)
    number_of_component = np.zeros(count, labels.dtype)
    number_of_component[component] = number
    areas = np.bincount(number, lengths).astype(np.int64)
    return Regions(
        shape=(height, width),
        areas=areas,
        components=np.bincount(number_of_component),
        spanned=_spanned(labels, areas),
    )


def _spanned(labels: np.ndarray, areas: np.ndarray) -> float:
    """Return the fraction of the image in the bounding box of the largest nucleus."""
    if len(areas) == 1:
        return 0.0
    nucleus = labels == int(areas[1:].argmax()) + 1
    sides = [np.flatnonzero(nucleus.any(axis)) for axis in (0, 1)]
    return float(np.prod([side[-1] - side[0] + 1 for side in sides])) / labels.size


@dataclass(frozen=True)
class LabelProblem:
    """Why a label is not an instance map: a key of `HOW_TO_FIX`, and the measured values."""

    kind: str
    detail: str


def find_problem(regions: Regions) -> LabelProblem | None:
    """Return why a label is not an instance map, or None if it may be one."""
    ids, split = regions.ids, regions.split_ids
    if len(ids) == 0:
        return None
    top, largest = int(ids[-1]), int(regions.areas[1:].argmax()) + 1
    share = f"{regions.areas[largest] / regions.areas.sum():.0%} of the image"
    if regions.areas[0] == 0:
        return LabelProblem("background", f"no pixel is 0, and {largest} covers {share}")
    is_full = top in MAX_OF_DTYPE and len(ids) == top and {1, top} & {*split.tolist()}
    if is_full and np.median(regions.components[1:]) < MEDIAN_IF_ALTERED:
        detail = f"all numbers from 1 to {top} are used, and {len(split)} of them twice or more"
        return LabelProblem("wrapped", f"{detail}, so numbers above {top} were lost")
    is_whole = regions.components[largest] <= MAX_COMPONENTS  # and not a class of many nuclei
    if is_whole and regions.areas[largest] > MAX_COVERAGE * regions.areas.sum():
        return LabelProblem("background", f"the number {largest} covers {share}")
    most = int(regions.components[regions.most_split_id])
    if len(split) > max(1, MAX_SPLIT_SHARE * len(ids)) or (most > MAX_COMPONENTS and len(ids) == 1):
        return _split_problem(regions)
    if most > MAX_COMPONENTS:
        detail = f"the number {regions.most_split_id} has {most} connected components"
        return LabelProblem("ignored", detail)
    if regions.spanned > MAX_SPAN and len(ids) > 1:
        return LabelProblem("background", f"the number {largest} extends over the whole image")
    return None


def _split_problem(regions: Regions) -> LabelProblem:
    ids, number = len(regions.ids), regions.most_split_id
    count = f"{regions.components[number]} connected components"
    if ids == 1:
        return LabelProblem("mask", f"its only nucleus has {count}")
    split = f"{len(regions.split_ids)} of {ids} numbers have several connected components"
    kind = "classes" if ids <= FEW_CLASSES else "altered"
    return LabelProblem(kind, f"{split} (number {number} has {regions.components[number]})")


def refuse(instances: np.ndarray, name: str) -> None:
    """Raise a BenchError if a label is not an instance map."""
    if problem := find_problem(regions_of(instances)):
        raise BenchError(describe({name: problem})[0])


def problems_of_set(regions: Mapping[str, Regions]) -> dict[str, LabelProblem]:
    """Find labels, by name, that are suspicious only in comparison with the other labels.

    These are labels with few numbers, as of small tiles, and ignore values with few components.
    """
    problems: dict[str, LabelProblem] = {}
    split = {name: label for name, label in regions.items() if len(label.split_ids)}
    n_split = sum(len(label.split_ids) for label in split.values())
    n_ids = sum(len(label.ids) for label in regions.values())
    if n_split > max(1, MAX_SPLIT_SHARE * n_ids):
        problems = {name: _split_problem(label) for name, label in split.items()}
    isolated = {  # the highest number, with a gap below it
        name: int(label.ids[-1])
        for name, label in regions.items()
        if len(label.ids) > 1 and label.ids[-2] < label.ids[-1] - 1
    }
    in_parts = Counter(
        number for name, number in isolated.items() if regions[name].components[number] > 1
    )
    for name, number in isolated.items():
        if in_parts[number] > 1:
            detail = f"the number {number} has several connected components in {in_parts[number]}"
            problems.setdefault(name, LabelProblem("ignored", f"{detail} labels"))
    return problems


def describe(problems: Mapping[str, LabelProblem], *, accepted: bool = False) -> list[str]:
    """Return a message per mask, and one per other kind of problem.

    Args:
        problems: by path of the label.
        accepted: the user accepted these labels, so the messages do not say how to fix them.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    kinds = {problem.kind for problem in problems.values()}
    for path, problem in problems.items():
        kind = problem.kind
        if kind == "classes" and "altered" in kinds:  # few numbers by chance, not classes
            kind = "altered"
        groups[kind, path if kind == "mask" else ""].append(path)
    return [
        _message(paths, LabelProblem(kind, problems[paths[0]].detail), accepted)
        for (kind, _), paths in groups.items()
    ]


def _message(paths: Sequence[str], first: LabelProblem, accepted: bool) -> str:
    names = ", ".join(paths[:MAX_SHOWN])
    more = f" and {len(paths) - MAX_SHOWN} more" if len(paths) > MAX_SHOWN else ""
    verb = "is not an instance map" if len(paths) == 1 else "are not instance maps"
    fix = f"{HOW_TO_FIX[first.kind]} {ACCEPT}"
    if accepted:
        fix = "The manifest marks them as accepted."
    return f"{names}{more} {verb}: {first.detail}. {fix}"
