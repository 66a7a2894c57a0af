"""CPM-17: 64 tiles of four cancers, from the digital pathology challenge of MICCAI 2017.

The release contains `train/Images/image_00.png` and `train/Labels/image_00.mat`, whose `inst_map`
is the label, and the same below `test/`: 32 + 32 tiles of GBM, LGG, HNSCC and NSCLC slides. The
images in `Overlay` have outlines drawn on them and are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.api import Dataset, Labelled
from bench.data.metadata import seeded_split
from bench.errors import BenchError

from ._matlab import read_instances
from ._release import PARTS, check_size, images_and_labels, part_of, read_image, report


def release(raw: Path) -> Iterator[Labelled]:
    """Read the official release: `train` and `test`, or one folder with `Images` and `Labels`."""
    labels = images_and_labels(raw, in_parts=True)
    images = {_id(path): path for path in labels}
    if len(images) != len(labels):
        raise BenchError(
            f"{raw} contains {len(labels)} images, of which {len(labels) - len(images)} are "
            "copies. Unpack the release into an empty folder."
        )
    splits = _splits(images)
    for name, path in images.items():
        image, instances = read_image(path), read_instances(labels[path])
        check_size(image, instances, labels[path])
        yield Labelled(
            id=name, image=image, instances=instances, split=splits[name], patient=f"cpm17-{name}"
        )


def _id(path: Path) -> str:
    return f"{part_of(path)}_{path.stem}" if part_of(path) in PARTS else path.stem


def _splits(images: dict[str, Path]) -> dict[str, str]:
    parts = {name: part_of(path) for name, path in images.items()}
    if all(part in PARTS for part in parts.values()):
        return parts
    report("no train and test folders in the release: half of the images were drawn for each")
    return seeded_split("cpm17", set(images), 0.5)


cpm17 = Dataset(
    name="cpm17",
    release=release,
    title="CPM-17: 64 tiles of brain, head and neck, and lung cancers, 20x and 40x",
    paper="Vu et al. 2019, Front. Bioeng. Biotechnol. 7:53, doi:10.3389/fbioe.2019.00053",
    license="not stated (research use)",
    homepage="https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK",
    sources=("TCGA",),
    input_px={0: 496, 14: 490},
)
