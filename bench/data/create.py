"""Create a data set from a folder with images/ and labels/ by writing a manifest.

Images are not changed. Labels are not changed either, unless they are masks whose connected
components are to be numbered.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.api import Progress
from bench.api.data import FolderInfo
from bench.data import label_check
from bench.data.audit import Audit
from bench.data.decode import decode_label, numbered
from bench.data.folder import counts, png, write_manifest
from bench.data.label_check import HOW_TO_FIX
from bench.data.leakage import Member, pixel_sha256
from bench.data.manifest import (
    ACCEPTED,
    COLUMNS,
    ManifestRow,
    content_of,
    file_key,
    match,
)
from bench.data.metadata import ImageInfo, origins
from bench.errors import BenchError
from bench.store.files import write_bytes

IMAGES, LABELS, NUMBERED = "images", "labels", "instances"  # folders
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LABEL_ENDINGS = (".png", ".tif", ".tiff")
OF_FILE_MANAGERS = {"thumbs.db", "ehthumbs.db", "desktop.ini"}  # ignored, like hidden files
NOWHERE = dict.fromkeys(("patient", "split", "organ", "magnification"), "")
HEADING = "## How this data set was made"


@dataclass(frozen=True)
class Plan:
    """A data set before it is written.

    Attributes:
        source: the input folder.
        root: the output folder: `source`, or the folder of a copy.
        binary: whether labels are masks, in which each connected component is a nucleus.
        rows: the rows of the manifest; label paths are relative to `root`.
        labels: the source file of each label, by id.
        problems: all problems; `write` requires that there are none.
        notes: assumptions made.
        warnings: what may be wrong with the images and labels.
    """

    source: Path
    root: Path
    binary: bool
    rows: Sequence[ManifestRow]
    labels: Mapping[str, Path]
    problems: Sequence[str]
    notes: Sequence[str]
    warnings: Sequence[str]

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split."""
        return dict(sorted(Counter(row.split for row in self.rows).items()))


# ---- read and check --------------------------------------------------------------------------


def plan(
    source: Path,
    info: FolderInfo,
    *,
    binary: bool = False,
    accept_labels: bool = False,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Plan:
    """Read the images and labels of a folder, and collect all problems.

    Args:
        binary: labels are masks of 0 and one other value; number their connected components.
        accept_labels: accept labels that are no instance maps, and mark them in the manifest.
        out: folder of a copy; None writes the manifest into `source`.

    Raises:
        BenchError: the folder has no images or labels, the options are invalid, or `out` is the
            folder itself.
    """
    _refuse_same_folder(source, out)
    images, problems = _files(source / IMAGES, IMAGE_ENDINGS)
    labels, label_problems = _files(source / LABELS, LABEL_ENDINGS)
    problems += label_problems + _unpaired(images, labels)
    metadata = origins(sorted(images), info, draw=not problems)
    problems += metadata.problems
    reader = _PairReader(binary)
    pairs = [name for name in sorted(images) if name in labels]
    for done, name in enumerate(pairs, start=1):
        paths = {"image": f"{IMAGES}/{images[name].name}", "label": f"{LABELS}/{labels[name].name}"}
        try:
            reader.read(_unread_row(source, name, paths, metadata))
        except BenchError as error:
            problems.append(str(error))
        progress("read", done, len(pairs))
    rows, wrong = reader.rows, reader.audit.label_problems()
    if accept_labels:
        rows = [
            replace(row, labels_accepted="yes" if str(source / row.label) in wrong else "")
            for row in rows
        ]
    if binary:  # the numbered labels need their own folder next to the masks
        folder = LABELS if out is not None else NUMBERED
        rows = [replace(row, label=f"{folder}/{row.id}.png") for row in rows]
    described = label_check.describe(wrong, accepted=accept_labels)
    if not accept_labels:
        problems += described
    warnings = [*(described if accept_labels else []), *reader.audit.warnings()]
    notes = [*metadata.notes, *_notes(rows, binary, out)]
    problems += reader.audit.leaks()
    return Plan(source, out or source, binary, rows, labels, problems, notes, warnings)


def _files(place: Path, endings: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a folder by name without suffix, and the problems of the folder."""
    if not place.is_dir():
        raise BenchError(
            f"there is no folder {place}. A data set needs FOLDER/{IMAGES}/NAME.png (or .jpg, "
            f".tif) and FOLDER/{LABELS}/NAME.png (or .tif), with the same name for image and label."
        )
    files: dict[str, Path] = {}
    by_key: dict[str, Path] = {}  # names that differ only in case are equal on some systems
    problems = []
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or path.name.lower() in OF_FILE_MANAGERS:
            continue
        if path.is_dir():
            problems.append(f"{path} is a folder; files must be directly in {place}.")
        elif path.suffix.lower() not in endings:
            problems.append(
                f"{path} is not one of {', '.join(endings)}. Convert it, or move it elsewhere."
            )
        elif (other := by_key.setdefault(file_key(path.stem), path)) != path:
            problems.append(f"{path} has the same name as {other}. Rename one of them.")
        else:
            files[path.stem] = path
    if not files and not problems:
        raise BenchError(f"{place} is empty. Put {', '.join(endings)} files into it.")
    return files, problems


def _unpaired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    rule = "image and label must have the same name"
    return [
        *(f"{images[name]} has no label in {LABELS}/; {rule}." for name in images - labels.keys()),
        *(f"{labels[name]} has no image in {IMAGES}/; {rule}." for name in labels - images.keys()),
    ]


def _unread_row(
    source: Path, name: str, paths: Mapping[str, str], metadata: ImageInfo
) -> ManifestRow:
    """Return the row of a pair whose files have not been read yet."""
    empty = {"width": 0, "height": 0, "nuclei": 0, "foreground": 0.0}
    hashes = {"image_sha256": "", "label_sha256": ""}
    origin = metadata.of.get(name, NOWHERE)
    return ManifestRow(source, name, **paths, **origin, **empty, **hashes)  # pyright: ignore


class _PairReader:
    """Reads pairs of image and label, and collects the problems that concern several pairs."""

    def __init__(self, binary: bool) -> None:
        self.binary = binary
        self.rows: list[ManifestRow] = []
        self.audit = Audit()

    def read(self, unread: ManifestRow) -> None:
        """Read and check a pair, and add its row.

        Raises:
            BenchError: a file has an unsupported format, or a label is a mask without `binary`.
        """
        label_path = unread.root / unread.label
        image, label = content_of(unread.root / unread.image), content_of(label_path)
        if self.binary:
            label = png(numbered(label, label_path))
        try:
            pixels, instances = unread.decode(image, label)
        except BenchError as error:
            if not self.binary and _is_mask(label, label_path):
                problem = f"{label_path} is a mask of two values, not an instance map"
                raise BenchError(f"{problem}. {HOW_TO_FIX['mask']}") from error
            raise
        hashes = {
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "label_sha256": hashlib.sha256(label).hexdigest(),
        }
        member = Member(unread.id, unread.patient, unread.split, pixel_sha256(pixels))
        measured = counts(self.audit.add(member, pixels, instances, str(label_path)))
        self.rows.append(replace(unread, **measured, **hashes))  # pyright: ignore[reportArgumentType]


def _is_mask(content: bytes, path: Path) -> bool:
    """Return whether a file is a valid mask, but not a valid label."""
    is_label = _is_accepted(decode_label, content, path)
    return not is_label and _is_accepted(numbered, content, path)


def _is_accepted(read: Callable[[bytes, Path], object], content: bytes, path: Path) -> bool:
    try:
        read(content, path)
    except BenchError:
        return False
    return True


def _notes(rows: Sequence[ManifestRow], binary: bool, out: Path | None) -> list[str]:
    notes = []
    if binary:
        where = f"{LABELS}/" if out else f"{NUMBERED}/; the masks are not changed"
        notes.append(
            "--binary: each connected component of a mask is a nucleus, so touching nuclei count "
            f"as one; the instance labels are in {where}"
        )
    if empty := [row.id for row in rows if row.nuclei == 0]:
        notes.append(f"no nuclei in {len(empty)} images: {', '.join(empty[:5])}")
    if not {"train", "test"} <= {row.split for row in rows}:
        notes.append("train or test has no images: this data set can only be used with --folds")
    return notes


# ---- write -----------------------------------------------------------------------------------


def refuse_full(source: Path, out: Path | None, *, binary: bool) -> None:
    """Raise a BenchError if existing files would be replaced."""
    _refuse_same_folder(source, out)
    root = out or source
    if (root / "manifest.csv").exists():
        raise BenchError(
            f"{root} already has a manifest.csv. Replace it with --force, or copy with --out DIR."
        )
    new = out or (source / NUMBERED if binary else None)
    if new is not None and new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise BenchError(f"{new} is not empty. Use --force to write into it.")


def _refuse_same_folder(source: Path, out: Path | None) -> None:
    if out is not None and out.resolve() == source.resolve():
        raise BenchError(f"--out {out} is the folder itself. Omit --out.")


def write(planned: Plan, progress: Progress = lambda stage, done, total: None) -> None:
    """Write a planned data set; the manifest is written last, when all files are complete.

    Raises:
        BenchError: a file has changed since it was read, or the folder is not writable.
    """
    assert not planned.problems
    is_copy = planned.root != planned.source
    for done, row in enumerate(planned.rows, start=1):
        if is_copy:
            image = content_of(planned.source / row.image)
            match(image, planned.source / row.image, row.image_sha256)
            write_bytes(planned.root / row.image, image)
        if is_copy or planned.binary:
            label = content_of(planned.labels[row.id])
            label = png(numbered(label, planned.labels[row.id])) if planned.binary else label
            match(label, planned.labels[row.id], row.label_sha256)
            write_bytes(planned.root / row.label, label)
        progress("write", done, len(planned.rows))
    write_bytes(planned.root / "README.md", _about(planned))
    lines = [{name: getattr(row, name) for name in (*COLUMNS, ACCEPTED)} for row in planned.rows]
    write_manifest(planned.root, lines)


def _about(planned: Plan) -> bytes:
    """Return the README of the folder, with the section on its creation replaced."""
    path = planned.source / "README.md"
    if path.is_file():
        text = content_of(path)
    else:
        title = f"# {planned.root.resolve().name}"
        text = f"{title}\n\nLicence of the images and labels: not stated. Add it here.".encode()
    text = text.partition(HEADING.encode())[0].rstrip()
    lines = [
        HEADING,
        "",
        "Created by `bench datasets make`; manifest.csv lists the files.",
        *(f"- {note}." for note in planned.notes),
    ]
    return text + b"\n\n" + "\n".join(lines).encode() + b"\n"
