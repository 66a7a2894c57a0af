"""Kumar, the MoNuSeg 2018 training images: 30 images of 30 patients and seven organs.

The release contains `TCGA-xx-xxxx-....tif`, 1000x1000, and outlines of the same name in `.xml`. The
split is that of Kumar et al.: 16 training images, 8 test images of the same and 6 of other organs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.api import Dataset, Labelled
from bench.api.report import several
from bench.errors import BenchError

from ._imagescope import draw, read_annotation
from ._release import by_stem, files, read_image, report

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

SPLITS = dict.fromkeys(TRAIN, "train") | dict.fromkeys(TEST, "test")
ORGANS = TRAIN | TEST


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `.tif` images and `.xml` outlines, in one folder or in two."""
    images = find_images(raw, ORGANS)
    absent = set(ORGANS) - {name[5:12] for name in images}
    if absent:
        names = ", ".join(sorted(absent))
        report(f"{len(absent)} of the 30 images are not in the release folder: {names}")
    yield from read_images(raw, images, ORGANS, SPLITS)


def find_images(raw: Path, patients: Mapping[str, str]) -> dict[str, Path]:
    """Return the `.tif` images of patients by name; other images are left out with a warning."""
    paths = by_stem(files(raw, r"TCGA-.*\.tiff?", example="TCGA-*.tif"))
    images = {name.upper(): path for name, path in paths.items()}
    others = sorted(name for name in images if name[5:12] not in patients)
    if others:
        count = several(len(others), "image")
        report(f"{count} left out, not of the {len(patients)}: {', '.join(others)}")
    return {name: images[name] for name in sorted(images) if name not in others}


def read_images(
    raw: Path, images: Mapping[str, Path], organs: Mapping[str, str], splits: Mapping[str, str]
) -> Iterator[Labelled]:
    """Yield TCGA images with the nuclei of their ImageScope annotations.

    Args:
        organs, splits: by patient ("18-5592").

    Raises:
        BenchError: an image has no `.xml` file below `raw`, or a file cannot be read.
    """
    outlines = by_stem(files(raw, r"TCGA-.*\.xml", example="TCGA-*.xml"))
    missing = [name for name in images if name.lower() not in outlines]
    if missing:
        raise BenchError(
            f"{len(missing)} of the {len(images)} images in {raw} have no annotation: no file "
            f"{', '.join(f'{name}.xml' for name in missing)}. Unpack the release again."
        )
    left_out: Counter[str] = Counter()
    for name, path in images.items():
        image = read_image(path)
        instances, omitted = draw(read_annotation(outlines[name.lower()]), image.shape[:2])
        left_out += omitted
        patient = name[5:12]
        yield Labelled(
            id=name,
            image=image,
            instances=instances,
            split=splits[patient],
            patient=name[:12].lower(),
            organ=organs[patient],
            magnification="40x",
        )
    if left_out:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        report(f"left out of the annotations: {counts}")


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
