"""Find patients and images that are in more than one part of a data set."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import BenchError

MAX_SHOWN = 5  # problems in one error message


@dataclass(frozen=True)
class Member:
    """An image in a part of a data set, such as a split or a fold.

    Attributes:
        image_sha256: see `pixel_sha256`; copies of an image have the same.
    """

    id: str
    patient: str
    part: str
    image_sha256: str


def pixel_sha256(image: np.ndarray) -> str:
    """Return the sha256 (hex) of an image's shape and pixels, independent of its file format."""
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()


def leaks(members: Iterable[Member]) -> list[str]:
    """Describe the patients and the images that are in more than one part."""
    patients: dict[str, set[str]] = defaultdict(set)
    copies: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        patients[member.patient].add(member.part)
        copies[member.image_sha256].append(member)
    problems = [
        f"the patient {patient!r} is in {' and '.join(sorted(parts))}"
        for patient, parts in sorted(patients.items())
        if len(parts) > 1
    ]
    for same in copies.values():
        if len({member.part for member in same}) > 1:
            names = " and ".join(f"{member.id} ({member.part})" for member in same)
            problems.append(f"the same image is in {names}")
    return problems


def refuse_leaks(members: Iterable[Member]) -> None:
    """Raise a BenchError if a patient or an image is in more than one part."""
    if problems := leaks(members):
        raise BenchError(
            f"the parts of this data set are not independent: {_listed(problems)}. "
            "In manifest.csv, put each patient and each image into one split, and assign identical "
            "images to one patient."
        )


def _listed(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:MAX_SHOWN])
    rest = len(problems) - MAX_SHOWN
    return f"{shown}; and {rest} more" if rest > 0 else shown
