"""MoNuSeg 2018: the 14 test images of the challenge, and its 30 training images if present.

The test release contains `MoNuSegTestData/TCGA-xx-xxxx-....tif`, 1000x1000, and outlines of the
same name in `.xml`. The training images are those of `kumar`; here, all are in the training split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.api import Dataset, Labelled

from ._release import report
from .kumar import ORGANS, find_images, read_images

TEST = {
    **dict.fromkeys(("AC-A2FO", "AO-A0J2"), "breast"),
    **dict.fromkeys(("2Z-A9J9", "GL-6846", "IZ-8196"), "kidney"),
    **dict.fromkeys(("EJ-A46H", "HC-7209"), "prostate"),
    **dict.fromkeys(("CU-A0YN", "ZF-A9R5"), "bladder"),
    **dict.fromkeys(("44-2665", "69-7764"), "lung"),
    **dict.fromkeys(("FG-A4MU", "HT-8564"), "brain"),
    "A6-6782": "colon",
}
"""Patient to organ."""

SPLITS = dict.fromkeys(ORGANS, "train") | dict.fromkeys(TEST, "test")


def release(raw: Path) -> Iterator[Labelled]:
    """Read the test release, and the training release if it is in the same folder."""
    images = find_images(raw, ORGANS | TEST)
    patients = {name[5:12] for name in images}
    for part, organs in (("test", TEST), ("training", ORGANS)):
        absent = sorted(set(organs) - patients)
        if absent and len(absent) < len(organs):
            names = ", ".join(absent)
            report(f"{len(absent)} of the {len(organs)} {part} images are missing: {names}")
        elif absent:
            report(f"no {part} images in the release folder: use --folds, or add them")
    yield from read_images(raw, images, ORGANS | TEST, SPLITS)


monuseg = Dataset(
    name="monuseg",
    release=release,
    title="MoNuSeg 2018: 14 test images and the 30 of Kumar to train, nine organs, 40x",
    paper="Kumar et al. 2020, IEEE TMI 39(5):1380-1391, doi:10.1109/TMI.2019.2947628",
    license="CC BY-NC-SA 4.0",
    homepage="https://monuseg.grand-challenge.org/Data/",
    sources=("TCGA",),
    input_px={0: 512, 14: 504},
)
