"""TNBC: triple-negative breast cancer, 50 images of 11 patients.

The release contains `Slide_01/01_1.png` and its mask `GT_01/01_1.png` (0 and 255); folders are
numbered by patient. A later release (Zenodo 3552674) adds the patients 12 to 14, whose images are
of the brain; they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.api import Dataset, Download, Labelled
from bench.api.report import several
from bench.errors import BenchError

from ._release import check_size, components, files, partner, read_image, report

FIRST_VAL, FIRST_TEST = 7, 9  # patients 01-06 train, 07-08 val, 09-11 test
LAST_BREAST = 11


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `Slide_xx` and `GT_xx` folders."""
    images = files(raw, r"\d+_\d+\.png", example="Slide_01/01_1.png")
    patients = {path: _patient(path) for path in images if _patient(path)}
    if not patients:
        raise BenchError(
            f"{raw} does not contain this release: no folders such as Slide_01. "
            "Unpack the release there."
        )
    brain = sorted(number for number in patients.values() if int(number) > LAST_BREAST)
    if brain:
        count, numbers = several(len(brain), "image"), ", ".join(sorted(set(brain)))
        report(
            f"{count} of patients {numbers} left out: they are of the brain (later release), the "
            "others of the breast"
        )
    for path, number in patients.items():
        if int(number) > LAST_BREAST:
            continue
        mask = partner(path, path.parent.with_name(f"GT_{number}") / path.name)
        image, instances = read_image(path), components(mask)
        check_size(image, instances, mask)
        yield Labelled(
            id=path.stem,
            image=image,
            instances=instances,
            split=_split(int(number)),
            patient=f"tnbc-{number}",
            organ="breast",
            magnification="40x",
        )


def _patient(image: Path) -> str:
    """Return the number of the patient of an image; empty if it is not in a `Slide` folder."""
    kind, _, number = image.parent.name.lower().partition("_")
    return number if kind == "slide" and number.isdecimal() else ""


def _split(patient: int) -> str:
    if patient >= FIRST_TEST:
        return "test"
    return "val" if patient >= FIRST_VAL else "train"


tnbc = Dataset(
    name="tnbc",
    release=release,
    download=Download(zenodo_record="1175282", file="TNBC_NucleiSegmentation.zip"),
    title="TNBC: 50 images of 11 patients, triple-negative breast cancer, 40x",
    paper="Naylor et al. 2019, IEEE TMI 38(2):448-459, doi:10.1109/TMI.2018.2865709",
    license="CC BY 4.0",
    homepage="https://zenodo.org/records/1175282",
    sources=("Institut Curie",),
    input_px={0: 512, 14: 504},
)
