"""The folder format of labelled data sets: images, instance labels and a manifest.

A folder contains `images/`, `labels/` (one integer per nucleus, 0 = background), `README.md` and
`manifest.csv`, with the paths, split, patient and sha256 of each image and label.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.api import Labelled, Progress, Sample
from bench.data import label_check
from bench.data.audit import Audit
from bench.data.decode import MAX_LABEL
from bench.data.label_check import Regions, regions_of
from bench.data.leakage import Member, pixel_sha256
from bench.data.manifest import (
    ACCEPTED,
    COLUMNS,
    MPP,
    SPLITS,
    ManifestRow,
    content_of,
    file_key,
    match,
    name_problem,
    parse,
    read_rows,
)
from bench.errors import BenchError
from bench.store.files import write_bytes


class ReleaseFixed(UserWarning):
    """Warning of a release reader that corrected or skipped something."""


def read(root: Path) -> list[Sample]:
    """List the samples of a folder, sorted by id; no pixels are read.

    Raises:
        BenchError: the manifest is missing or invalid.
    """
    return [sample_of(row) for row in read_rows(root)]


def sample_of(row: ManifestRow) -> Sample:
    """Return the sample of a row of the manifest."""
    fingerprint = hashlib.sha256(f"{row.image_sha256}{row.label_sha256}".encode()).hexdigest()
    return Sample(
        id=row.id,
        split=row.split,
        patient=row.patient,
        organ=row.organ,
        mpp=MPP[row.magnification],
        fingerprint=fingerprint,
        read=row.read,
        size=(row.height, row.width),
    )


def verify(rows: Iterable[ManifestRow]) -> None:
    """Compare the sha256 of every file with the manifest; no pixels are decoded.

    Raises:
        BenchError: a file is missing or differs from the manifest.
    """
    for row in rows:
        for path, sha256 in (row.image, row.image_sha256), (row.label, row.label_sha256):
            match(content_of(row.root / path), row.root / path, sha256)


def manifest_sha256(rows: Iterable[ManifestRow]) -> str:
    """Return the sha256 (hex) of a data set's ids, splits, patients and file hashes.

    The order of rows and columns, paths and organs have no effect.
    """
    values = [(r.id, r.split, r.patient, r.image_sha256, r.label_sha256) for r in rows]
    return hashlib.sha256(json.dumps(sorted(values)).encode()).hexdigest()


@dataclass(frozen=True)
class Findings:
    """The problems of a folder, which make it unusable, and its warnings."""

    problems: list[str]
    warnings: list[str]


def check(root: Path, progress: Progress | None = None) -> list[str]:
    """Return all problems of a folder; empty if it is valid."""
    return examine(root, progress).problems


def examine(root: Path, progress: Progress | None = None) -> Findings:
    """Return all problems and warnings of a folder."""
    rows, problems = parse(root)
    audit = Audit()
    accepted = {str(root / row.label) for row in rows if row.labels_accepted}
    for done, row in enumerate(rows, start=1):
        try:
            contents = [content_of(root / path) for path in (row.image, row.label)]
            problems += _changed(row, *contents)
            image, instances = row.decode(*contents)
        except BenchError as error:
            problems.append(str(error))
            audit.members.append(Member(row.id, row.patient, row.split, row.id))
        else:
            member = Member(row.id, row.patient, row.split, pixel_sha256(image))
            regions = audit.add(member, image, instances, str(root / row.label))
            problems += _disagreements(row, regions)
        if progress:
            progress("check", done, len(rows))
    wrong = audit.label_problems()
    problems += label_check.describe({k: v for k, v in wrong.items() if k not in accepted})
    notes = label_check.describe({k: v for k, v in wrong.items() if k in accepted}, accepted=True)
    return Findings(problems + audit.leaks(), [*notes, *audit.warnings()])


def _changed(row: ManifestRow, image: bytes, label: bytes) -> list[str]:
    problems = []
    for content, path, sha256 in (
        (image, row.image, row.image_sha256),
        (label, row.label, row.label_sha256),
    ):
        try:
            match(content, row.root / path, sha256)
        except BenchError as error:
            problems.append(str(error))
    return problems


def _disagreements(row: ManifestRow, regions: Regions) -> list[str]:
    """Compare the counts of the manifest with the label."""
    measured = counts(regions)
    stated = {name: getattr(row, name) for name in measured}
    return [
        f"{row.id}: {name} is {stated[name]} in the manifest, but {value} in the files."
        for name, value in measured.items()
        if abs(stated[name] - value) > (1e-3 if name == "foreground" else 0)
    ]


def counts(regions: Regions) -> dict[str, float]:
    """Return the manifest fields of a label: width, height, nuclei, fraction of foreground."""
    height, width = regions.shape
    share = round(float(regions.areas[1:].sum()) / (height * width), 4)
    return {"width": width, "height": height, "nuclei": len(regions.ids), "foreground": share}


def write(
    samples: Iterable[Labelled],
    root: Path,
    *,
    about: str,
    corrections: Sequence[str] = (),
    progress: Progress | None = None,
) -> int:
    """Write samples as a data set folder; nuclei are renumbered 1, 2, ... in each image.

    The manifest is written last, so a folder with a manifest is complete.

    Args:
        about: text of README.md: source, paper, licence.
        corrections: corrections of the release, listed in README.md; may grow during the iteration
            over `samples`.

    Returns:
        The number of images.

    Raises:
        BenchError: the folder already contains a data set, a sample is invalid, or there are no
            samples.
    """
    if (root / "manifest.csv").exists():
        raise BenchError(f"{root} already contains a data set. Choose another folder or delete it.")
    lines: dict[str, Mapping[str, object]] = {}
    for sample in samples:
        if file_key(sample.id) in lines:
            raise BenchError(f"two samples have the id {sample.id!r}; ids must be unique.")
        lines[file_key(sample.id)] = _write_one(sample, root)
        if progress:
            progress("write", len(lines), 0)
    if not lines:
        raise BenchError(f"nothing to write to {root}: the release contains no labelled images.")
    notes = [f"- {correction}" for correction in corrections]
    if notes:
        notes = ["", "Corrections to the release:", *notes]
    write_bytes(root / "README.md", ("\n".join([about.strip(), *notes]) + "\n").encode())
    write_manifest(root, [lines[name] for name in sorted(lines)])
    return len(lines)


def write_manifest(root: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Write the manifest of a folder atomically; the images and labels must exist."""
    table = io.StringIO(newline="")
    lines = [*lines]
    columns = [*COLUMNS, ACCEPTED] if any(line.get(ACCEPTED) for line in lines) else COLUMNS
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_bytes(root / "manifest.csv", table.getvalue().encode())


def _write_one(sample: Labelled, root: Path) -> Mapping[str, object]:
    """Write the two files of a sample and return its row of the manifest."""
    sample = replace(sample, instances=_renumbered(sample))
    _validate(sample)
    image, label = png(sample.image), png(sample.instances)
    paths = {"image": f"images/{sample.id}.png", "label": f"labels/{sample.id}.png"}
    write_bytes(root / paths["image"], image)
    write_bytes(root / paths["label"], label)
    described = {name: getattr(sample, name) for name in ("id", "split", "patient", "organ")}
    hashes = {
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "label_sha256": hashlib.sha256(label).hexdigest(),
    }
    magnification = {"magnification": sample.magnification}
    return described | paths | magnification | counts(regions_of(sample.instances)) | hashes


def _renumbered(sample: Labelled) -> np.ndarray:
    values, indices = np.unique(sample.instances, return_inverse=True)
    numbers = np.cumsum(values != 0) * (values != 0)
    if numbers.max() > MAX_LABEL:
        raise BenchError(
            f"{sample.id} has {numbers.max()} nuclei; at most {MAX_LABEL} can be stored."
        )
    return numbers[indices].reshape(sample.instances.shape).astype(np.uint16)


def _validate(sample: Labelled) -> None:
    for column in ("id", "patient", "organ"):
        if reason := name_problem(column, getattr(sample, column)):
            raise BenchError(f"{sample.id!r}: {reason}.")
    if sample.split not in SPLITS or sample.magnification not in MPP:
        raise BenchError(
            f"{sample.id}: split {sample.split!r} or magnification {sample.magnification!r} is "
            f"invalid. Splits: {SPLITS}; magnifications: {tuple(MPP)}."
        )
    shape = sample.instances.shape
    if sample.image.shape != (*shape, 3) or sample.image.dtype != np.uint8:
        raise BenchError(
            f"{sample.id}: the image is {sample.image.dtype} {sample.image.shape} and the label "
            f"{shape}; they must be uint8 (H, W, 3) and (H, W)."
        )


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
