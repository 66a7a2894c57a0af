"""Checks of images and labels that need all images of a data set."""

from __future__ import annotations

import numpy as np

from bench.data import alignment, label_check
from bench.data.alignment import FEWEST_NUCLEI, Alignment, align
from bench.data.label_check import LabelProblem, Regions, regions_of
from bench.data.leakage import MAX_SHOWN, Member, leaks
from bench.data.near_copies import Thumbnail, near_copies, thumbnail


class Audit:
    """Collects the images and labels of a data set, and reports what is suspicious.

    Only small summaries of each image are stored.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._regions: dict[str, Regions] = {}  # by path of the label
        self._alignments: dict[str, Alignment] = {}  # by id of the image
        self._thumbnails: list[tuple[Member, Thumbnail]] = []

    def add(self, member: Member, image: np.ndarray, instances: np.ndarray, label: str) -> Regions:
        """Add an image and its label, which has the path `label`, and return its regions."""
        regions = regions_of(instances)
        self.members.append(member)
        self._regions[label] = regions
        self._thumbnails.append((member, thumbnail(image)))
        if regions.components[1:].sum() >= FEWEST_NUCLEI:
            result = align(image, instances > 0)
            if result is not None:
                self._alignments[member.id] = result
        return regions

    def label_problems(self) -> dict[str, LabelProblem]:
        """Return why labels are not instance maps, by path of the label."""
        found = {path: label_check.find_problem(label) for path, label in self._regions.items()}
        single = {path: problem for path, problem in found.items() if problem is not None}
        return label_check.problems_of_set(self._regions) | single

    def leaks(self) -> list[str]:
        """Describe the patients and images that are in several splits."""
        return [f"{problem}." for problem in leaks(self.members)]

    def warnings(self) -> list[str]:
        """Describe labels that may not belong to their image, and near copies of images."""
        return [*alignment.describe(self._alignments), *self._near_copies()]

    def _near_copies(self) -> list[str]:
        members = [member for member, _ in self._thumbnails]
        patients = [member.patient for member in members]
        pairs = near_copies([pixels for _, pixels in self._thumbnails], patients)
        shown = [
            f"{a.id} ({a.part}) and {b.id} ({b.part})"
            for a, b in ((members[i], members[j]) for i, j in pairs)
            if a.image_sha256 != b.image_sha256 or a.part == b.part  # else it is a leak
        ]
        if not shown:
            return []
        more = f"; and {len(shown) - MAX_SHOWN} more pairs" if len(shown) > MAX_SHOWN else ""
        return [
            f"images of different patients show the same tissue: {'; '.join(shown[:MAX_SHOWN])}"
            f"{more}. Give near copies the same patient, or remove one of them; otherwise a model "
            "is scored on images that it was trained on."
        ]
