"""Janowczyk nuclei: 143 images, 2000x2000, of ER+ breast cancer of 137 patients.

The release contains `12750_500_f00003_original.tif` and `12750_500_f00003_mask.png`; the first
number is the patient. Only some nuclei of each image are annotated: precision is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.api import Dataset, Labelled
from bench.data.metadata import seeded_split

from ._release import check_size, components, files, partner, read_image

TEST_SHARE = 0.2  # no official split


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `*_original.tif` with `*_mask.png`."""
    images = files(raw, r"\d+_.*_original\.tif", example="12750_500_f00003_original.tif")
    splits = seeded_split("janowczyk", {_patient(path) for path in images}, TEST_SHARE)
    for path in images:
        name = path.stem[: -len("_original")]
        mask = partner(path, path.with_name(f"{name}_mask.png"))
        image, instances = read_image(path), components(mask)
        check_size(image, instances, mask)
        yield Labelled(
            id=name,
            image=image,
            instances=instances,
            split=splits[_patient(path)],
            patient=f"janowczyk-{_patient(path)}",
            organ="breast",
            magnification="40x",
        )


def _patient(path: Path) -> str:
    return path.name.partition("_")[0]


janowczyk = Dataset(
    name="janowczyk",
    release=release,
    title="Janowczyk nuclei: 143 images of 137 patients, ER+ breast cancer, 40x, partly annotated",
    paper="Janowczyk and Madabhushi 2016, J. Pathol. Inform. 7:29, doi:10.4103/2153-3539.186902",
    license="not stated (research use)",
    homepage="https://andrewjanowczyk.com/deep-learning/",
    sources=("Case Western Reserve",),
    input_px={0: 512, 14: 504},
)
