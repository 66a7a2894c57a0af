"""Parse and validate the manifest of a data set folder: one row per image."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from bench.data.decode import decode_image, decode_label
from bench.errors import BenchError
from bench.store.files import MAX_NAME_BYTES, is_file_name

MANIFEST = "manifest.csv"
COLUMNS = (
    *("id", "image", "label", "split", "patient", "organ", "magnification"),
    *("width", "height", "nuclei", "foreground", "image_sha256", "label_sha256"),
)
SPLITS = ("train", "val", "test")
ACCEPTED = "labels_accepted"
"""Optional column: "yes" for a label that is no instance map, but was accepted."""
MPP = {"20x": 0.5, "40x": 0.25, "unknown": None, "": None}


@dataclass(frozen=True)
class ManifestRow:
    """A row of a manifest; its paths are relative to `root`."""

    root: Path
    id: str
    image: str
    label: str
    split: str
    patient: str
    organ: str
    magnification: str
    width: int
    height: int
    nuclei: int
    foreground: float
    image_sha256: str
    label_sha256: str
    labels_accepted: str = ""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read image (H, W, 3) uint8 RGB and instances (H, W) int32, 0 = background.

        Raises:
            BenchError: a file is missing, differs from its sha256, or has an unsupported format.
        """
        files = (self.image, self.image_sha256), (self.label, self.label_sha256)
        contents = [content_of(self.root / path) for path, _ in files]
        for content, (path, sha256) in zip(contents, files, strict=True):
            match(content, self.root / path, sha256)
        return self.decode(*contents)

    def decode(self, image: bytes, label: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Decode the contents of both files like `read`, without checking their sha256."""
        pixels = decode_image(image, self.root / self.image)
        instances = decode_label(label, self.root / self.label)
        if instances.shape != pixels.shape[:2]:
            raise BenchError(
                f"{self.root / self.label} is {_size(instances)} but its image is {_size(pixels)}. "
                "Image and label must have the same width and height."
            )
        return pixels, instances


def parse(root: Path) -> tuple[list[ManifestRow], list[str]]:
    """Return the valid rows of a manifest, sorted by id, and all its problems."""
    path = root / MANIFEST
    if not root.is_dir():
        return [], [f"There is no folder {root}."]
    if not path.is_file():
        state = "has no manifest.csv" if any(root.iterdir()) else "is empty"
        return [], [f"{root} {state}, so it is not a data set. {how_to_make(root)}"]
    try:
        columns, entries = read_table(path)
    except BenchError as error:
        return [], [str(error)]
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        problem = f"has no columns {', '.join(missing)}; it has {', '.join(columns)}"
        return [], [f"{path} {problem}. {how_to_make(root, '--force')}"]
    if not entries:
        return [], [f"{path} has no rows."]
    return _rows(root, entries)


def read_rows(root: Path) -> list[ManifestRow]:
    """Return the rows of a manifest, sorted by id.

    Raises:
        BenchError: the manifest is missing or invalid.
    """
    rows, problems = parse(root)
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise BenchError(f"{problems[0]}{more} `bench datasets check {root}` lists all problems.")
    return rows


def is_labelled(root: Path) -> bool:
    """Return whether a folder has the manifest of a labelled data set."""
    path = root / MANIFEST
    try:
        return path.is_file() and set(COLUMNS) <= set(read_table(path)[0])
    except (BenchError, OSError):
        return False


def read_table(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Return the columns and rows of a CSV file in UTF-8.

    Raises:
        BenchError: the file is not valid CSV, or has duplicate columns.
    """
    try:
        text = content_of(path).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns, entries = lines.fieldnames or (), list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchError(
            f"{path} cannot be read as comma-separated UTF-8 text: {error}."
        ) from error
    duplicates = [column for column in columns if column and columns.count(column) > 1]
    if duplicates:
        raise BenchError(f"{path} has two columns {duplicates[0]}. Rename or delete one.")
    return columns, entries


def how_to_make(root: Path, *more: str) -> str:
    """Return a sentence with the command that creates a manifest."""
    command = shlex.join(["bench", "datasets", "make", str(root), *more])
    return (
        f"`{command}` creates a manifest from its images/ and labels/; "
        "`bench datasets prepare` converts official releases."
    )


def _rows(root: Path, entries: list[dict[str, str]]) -> tuple[list[ManifestRow], list[str]]:
    rows: dict[str, ManifestRow] = {}  # by `file_key` of the id
    problems: list[str] = []
    for number, entry in enumerate(entries, start=2):
        where = f"{root / 'manifest.csv'} line {number}:"
        try:
            row = _row(root, entry)
        except ValueError as error:
            problems.append(f"{where} {error}.")
            continue
        first = rows.setdefault(file_key(row.id), row)
        if first is not row:
            also = "" if row.id == first.id else f" as {first.id!r}, the same file on some systems"
            problems.append(f"{where} duplicate id {row.id!r}{also}; ids must be unique.")
    return sorted(rows.values(), key=lambda row: row.id), problems


def _row(root: Path, entry: dict[str, str]) -> ManifestRow:
    """Parse a row; raise a ValueError with the problem if it is invalid."""
    fields = {column: entry[column] for column in COLUMNS}
    if None in fields.values() or None in entry:
        raise ValueError("it does not have one value for each column")
    for column in ("image", "label"):
        if not fields[column].isprintable():
            raise ValueError(f"the {column} {fields[column]!r} is not printable text")
        if not _stays_inside(fields[column]):
            raise ValueError(f"the {column} {fields[column]!r} is outside of the folder")
        if not _is_file(root / fields[column]):
            raise ValueError(f"the {column} {fields[column]!r} does not exist")
    check_words(fields)
    numbers = {column: _number(column, fields[column]) for column in ("width", "height", "nuclei")}
    share = _number("foreground", fields["foreground"], float)
    numbers |= {"foreground": share, ACCEPTED: entry.get(ACCEPTED, "")}
    return ManifestRow(root=root, **(fields | numbers))  # pyright: ignore


def check_words(fields: Mapping[str, str]) -> None:
    """Check names, split and magnification; raise a ValueError with the problem."""
    if fields["split"] not in SPLITS:
        raise ValueError(f"the split {fields['split']!r} is not one of {', '.join(SPLITS)}")
    if fields["magnification"] not in MPP:
        raise ValueError(
            f"the magnification {fields['magnification']!r} is not 20x, 40x or unknown"
        )
    for column in ("id", "patient", "organ"):
        if reason := name_problem(column, fields[column]):
            raise ValueError(reason)


def _number(column: str, text: str, kind: type = int) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ValueError(f"the {column} {text!r} is not a number")
    return value


def name_problem(column: str, name: str) -> str:
    """Return why the name of an image, patient or organ is invalid, or "" if it is valid.

    The names are copied to records, where `bench merge` checks them again.
    """
    if column == "id" and not is_file_name(name):
        return f"the id {name!r} cannot be a file name of at most {MAX_NAME_BYTES} bytes"
    if column == "patient" and not name:
        return "the patient is empty (if unknown, use a different patient for each image)"
    if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        shown = name if len(name) <= MAX_NAME_BYTES else f"{name[:40]}..."
        return f"the {column} {shown!r} is not printable text of at most {MAX_NAME_BYTES} bytes"
    if column != "organ" and name != name.strip():
        return f"the {column} {name!r} begins or ends with whitespace"
    if not unicodedata.is_normalized("NFC", name):
        return (
            f"the {column} {name!r} is not in the Unicode form NFC. Convert it with "
            "unicodedata.normalize('NFC', ...)"
        )
    return ""


def file_key(name: str) -> str:
    """Return a key that is equal for names that some systems treat as the same file."""
    return unicodedata.normalize("NFC", name.casefold())


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    foreign = "\\" in path or "\0" in path or bool(PureWindowsPath(path).drive)
    return bool(path) and not (foreign or pure.is_absolute() or ".." in pure.parts)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for this system
        return False


def content_of(path: Path) -> bytes:
    """Read a file of a data set; raise a BenchError if it is unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}.") from error


def match(content: bytes, path: Path, sha256: str) -> None:
    """Raise a BenchError if the content of a file does not have the sha256 of the manifest."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise BenchError(
            f"{path} differs from the manifest: its sha256 is {actual}, the manifest has "
            f"{sha256 or 'none'}. Restore the file, or if the change is intended, write the new "
            "sha256 into manifest.csv."
        )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
