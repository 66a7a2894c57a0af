"""A data set made of a folder of one's own: images/ and labels/ are described by a manifest.

The images stay as they are. Labels do too, unless they are masks whose pieces are to be numbered.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.api import Progress
from bench.decode import decode_label
from bench.errors import BenchError
from bench.folder import (
    MOST_PIECES,
    counts,
    leaks,
    picture_sha256,
    png,
    write_manifest,
)
from bench.manifest import COLUMNS, Row, content_of, file_key, match
from bench.patients import Answers, Origins, origins
from bench.pieces import numbered, pieces
from bench.store import write_bytes

IMAGES, LABELS, NUMBERED = "images", "labels", "instances"  # folders
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LABEL_ENDINGS = (".png", ".tif", ".tiff")
CURE = "Number its nuclei, or let `--binary` take each connected piece of a mask for one."
NOWHERE = dict.fromkeys(("patient", "split", "organ", "magnification"), "")
HEADING = "## How this data set was made"


@dataclass(frozen=True)
class Plan:
    """A data set before it is written.

    Attributes:
        source: the folder that is described.
        root: the folder that gets the manifest: the same one, or that of a copy.
        binary: whether labels are masks, of which each connected piece is a nucleus.
        rows: the lines of the manifest; their label files are those that will lie in `root`.
        labels: by id, the file that a label is read from.
        problems: all that is wrong; where there is something, nothing may be written.
        notes: what was assumed.
    """

    source: Path
    root: Path
    binary: bool
    rows: Sequence[Row]
    labels: Mapping[str, Path]
    problems: Sequence[str]
    notes: Sequence[str]

    @property
    def splits(self) -> dict[str, int]:
        """The number of images of each split."""
        return dict(sorted(Counter(row.split for row in self.rows).items()))


# ---- find, read and check --------------------------------------------------------------------


def plan(
    source: Path,
    answers: Answers,
    *,
    binary: bool = False,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Plan:
    """Read a folder's images and labels, and find everything that is wrong with them.

    Args:
        binary: labels are masks of 0 and one other value; their connected pieces are numbered.
        out: make a copy there; None describes the folder where it is.

    Raises:
        BenchError: the folder does not hold both kinds, what is said of it cannot be met, or the
            copy would lie over it.
    """
    _refuse_itself(source, out)
    images, problems = _files(source / IMAGES, IMAGE_ENDINGS)
    labels, wrong = _files(source / LABELS, LABEL_ENDINGS)
    problems += wrong + _unpaired(images, labels)
    known = origins(sorted(images), answers, draw=not problems)
    problems += known.problems
    seen = _Seen(binary)
    both = [name for name in sorted(images) if name in labels]
    for done, name in enumerate(both, start=1):
        where = {"image": f"{IMAGES}/{images[name].name}", "label": f"{LABELS}/{labels[name].name}"}
        try:
            seen.read(_bare(source, name, where, known))
        except BenchError as error:
            problems.append(str(error))
        progress("read", done, len(both))
    rows = [_placed(row, out is not None) for row in seen.rows] if binary else seen.rows
    notes = [*known.notes, *_notes(rows, binary, out)]
    return Plan(source, out or source, binary, rows, labels, problems + seen.problems(), notes)


def _files(place: Path, endings: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """List the files of a folder by their names without endings, and what does not belong there."""
    if not place.is_dir():
        raise BenchError(
            f"there is no folder {place}. A data set is made of FOLDER/{IMAGES}/NAME.png (or .jpg, "
            f".tif) and FOLDER/{LABELS}/NAME.png (or .tif), a pair of the same name for each image."
        )
    found: dict[str, Path] = {}
    taken: dict[str, Path] = {}  # names that differ in case alone are one name on some systems
    problems = []
    for path in sorted(place.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            problems.append(f"{path} is a folder: files lie directly in {place}.")
        elif path.suffix.lower() not in endings:
            kinds = ", ".join(endings)
            problems.append(f"{path} is none of {kinds}: convert it, or move it elsewhere.")
        elif (other := taken.setdefault(file_key(path.stem), path)) != path:
            problems.append(f"{path} has the name of {other}: rename one of them.")
        else:
            found[path.stem] = path
    if not found and not problems:
        raise BenchError(f"{place} is empty: it takes files of {', '.join(endings)}.")
    return found, problems


def _unpaired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    told = "a label has the name of its image"
    return [
        *(f"{images[name]} has no label in {LABELS}/: {told}." for name in images - labels.keys()),
        *(f"{labels[name]} has no image in {IMAGES}/: {told}." for name in labels - images.keys()),
    ]


def _bare(source: Path, name: str, where: Mapping[str, str], known: Origins) -> Row:
    """Give the row of a pair that was not read so far."""
    empty = {"width": 0, "height": 0, "nuclei": 0, "foreground": 0.0}
    hashes = {"image_sha256": "", "label_sha256": ""}
    origin = known.of.get(name, NOWHERE)
    return Row(source, name, **where, **origin, **empty, **hashes)  # pyright: ignore


class _Seen:
    """The pairs that were read, and what only shows when all of them were."""

    def __init__(self, binary: bool) -> None:
        self.binary = binary
        self.rows: list[Row] = []
        self.pictures: dict[str, list[Row]] = defaultdict(list)
        self.in_pieces: dict[str, int] = {}  # by id, of a label with a single number

    def read(self, bare: Row) -> None:
        """Read, check and describe a pair.

        Raises:
            BenchError: a file is not of the format, or a label is a mask that nobody announced.
        """
        image, label = (content_of(bare.root / each) for each in (bare.image, bare.label))
        if self.binary:
            label = png(numbered(label, bare.root / bare.label))
        try:
            pixels, instances = bare.decode(image, label)
        except BenchError as error:
            if not self.binary and _is_mask(label, bare.root / bare.label):
                told = f"{bare.root / bare.label} is a mask of two values, not numbers of nuclei"
                raise BenchError(f"{told}. {CURE}") from error
            raise
        hashes = {
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "label_sha256": hashlib.sha256(label).hexdigest(),
        }
        row = replace(bare, **counts(instances), **hashes)  # pyright: ignore[reportArgumentType]
        self.rows.append(row)
        if row.patient:  # else the table, which is refused, has no line for it
            self.pictures[picture_sha256(pixels)].append(row)
        if row.nuclei == 1 and not self.binary:
            self.in_pieces[row.id] = int(pieces(instances).max())

    def problems(self) -> list[str]:
        """Find labels that look like masks, and patients and pictures in two splits."""
        all_single = all(row.nuclei <= 1 for row in self.rows)
        most = 1 if all_single else MOST_PIECES
        masks = [
            f"{row.root / row.label}: its one nucleus lies in {self.in_pieces[row.id]} pieces, as "
            f"if it were a mask. {CURE}"
            for row in self.rows
            if self.in_pieces.get(row.id, 0) > most
        ]
        return masks + leaks([row for row in self.rows if row.patient], self.pictures)


def _is_mask(content: bytes, path: Path) -> bool:
    """Tell whether a file that cannot be labels could be a mask."""
    return not _works(decode_label, content, path) and _works(numbered, content, path)


def _works(read: Callable[[bytes, Path], object], content: bytes, path: Path) -> bool:
    try:
        read(content, path)
    except BenchError:
        return False
    return True


def _placed(row: Row, copied: bool) -> Row:
    """Name the file of the numbers made of a mask; beside the mask they need a folder."""
    return replace(row, label=f"{LABELS if copied else NUMBERED}/{row.id}.png")


def _notes(rows: Sequence[Row], binary: bool, out: Path | None) -> list[str]:
    notes = []
    if binary:
        where = f"{LABELS}/" if out else f"{NUMBERED}/, and the masks stay as they are"
        notes.append(
            "--binary: each connected piece of a mask is a nucleus, so nuclei that touch count as "
            f"one; their numbers are in {where}"
        )
    if empty := [row.id for row in rows if row.nuclei == 0]:
        notes.append(f"no nuclei in {len(empty)} images: {', '.join(empty[:5])}")
    if not {"train", "test"} <= {row.split for row in rows}:
        notes.append("not both train and test have images: such a set runs with --folds alone")
    return notes


# ---- write -----------------------------------------------------------------------------------


def refuse_full(source: Path, out: Path | None, *, binary: bool) -> None:
    """Raise a BenchError where something would be written over."""
    _refuse_itself(source, out)
    root = out or source
    if (root / "manifest.csv").exists():
        raise BenchError(
            f"{root} holds a manifest.csv already: --force replaces it, --out DIR makes a copy."
        )
    new = out or (source / NUMBERED if binary else None)
    if new is not None and new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise BenchError(f"{new} is there and not empty: --force writes into it.")


def _refuse_itself(source: Path, out: Path | None) -> None:
    if out is not None and out.resolve() == source.resolve():
        raise BenchError(f"--out {out} is the folder itself: leave --out out.")


def write(planned: Plan, progress: Progress = lambda stage, done, total: None) -> None:
    """Write what was planned; the manifest last, so that a folder with a new one is whole.

    Raises:
        BenchError: a file was changed since it was read, or the folder cannot be written to.
    """
    assert not planned.problems
    copied = planned.root != planned.source
    for done, row in enumerate(planned.rows, start=1):
        if copied:
            image = content_of(planned.source / row.image)
            match(image, planned.source / row.image, row.image_sha256)
            write_bytes(planned.root / row.image, image)
        if copied or planned.binary:
            label = content_of(planned.labels[row.id])
            label = png(numbered(label, planned.labels[row.id])) if planned.binary else label
            match(label, planned.labels[row.id], row.label_sha256)
            write_bytes(planned.root / row.label, label)
        progress("write", done, len(planned.rows))
    write_bytes(planned.root / "README.md", _about(planned))
    lines = [{name: getattr(row, name) for name in COLUMNS} for row in planned.rows]
    write_manifest(planned.root, lines)


def _about(planned: Plan) -> bytes:
    """Add to the README of the folder how the set was made; what stands above stays."""
    title = f"# {planned.root.resolve().name}\n\n"
    asked = "Licence of the images and labels: not stated. Write it here."
    there = planned.source / "README.md"
    own = content_of(there) if there.is_file() else (title + asked).encode()
    own = own.partition(HEADING.encode())[0].rstrip()
    lines = [
        HEADING,
        "",
        "By `bench datasets make`; manifest.csv lists the files.",
        *(f"- {note}." for note in planned.notes),
    ]
    return own + b"\n\n" + "\n".join(lines).encode() + b"\n"
