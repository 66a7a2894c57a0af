"""The manifest of a data set folder: one row an image, and the rules that it obeys."""

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

from bench.decode import decode_image, decode_label
from bench.errors import BenchError

MANIFEST = "manifest.csv"
COLUMNS = (
    *("id", "image", "label", "split", "patient", "organ", "magnification"),
    *("width", "height", "nuclei", "foreground", "image_sha256", "label_sha256"),
)
SPLITS = ("train", "val", "test")
MPP = {"20x": 0.5, "40x": 0.25, "unknown": None, "": None}
MAX_NAME_BYTES = 200  # ids become file names, of 255 bytes at most


@dataclass(frozen=True)
class Row:
    """One line of a manifest, with the folder that its paths start from."""

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

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read image (H, W, 3) uint8 RGB and instances (H, W) int32, 0 = background.

        Raises:
            BenchError: a file is missing, differs from its sha256, or is not of the format.
        """
        files = (self.image, self.image_sha256), (self.label, self.label_sha256)
        contents = [content_of(self.root / path) for path, _ in files]
        for content, (path, sha256) in zip(contents, files, strict=True):
            match(content, self.root / path, sha256)
        return self.decode(*contents)

    def decode(self, image: bytes, label: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Decode the bytes of both files, as `read` does, whatever their sha256."""
        pixels = decode_image(image, self.root / self.image)
        instances = decode_label(label, self.root / self.label)
        if instances.shape != pixels.shape[:2]:
            raise BenchError(
                f"{self.root / self.label} is {_size(instances)} but its image is {_size(pixels)}. "
                "Image and label must have the same width and height."
            )
        return pixels, instances


def parse(root: Path) -> tuple[list[Row], list[str]]:
    """Parse the manifest into the rows that can be used, by id, and all that is wrong with it."""
    path = root / MANIFEST
    if not root.is_dir():
        return [], [f"There is no folder {root}."]
    if not path.is_file():
        state = "holds no manifest.csv" if any(root.iterdir()) else "is empty"
        return [], [f"{root} {state}, so it is not a data set. {how_to_make(root)}"]
    try:
        columns, entries = read_table(path)
    except BenchError as error:
        return [], [str(error)]
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        told = f"lacks the columns {', '.join(missing)}; it has {', '.join(columns)}"
        return [], [f"{path} {told}. {how_to_make(root, '--force')}"]
    if not entries:
        return [], [f"{path} has no rows."]
    return _rows(root, entries)


def read_rows(root: Path) -> list[Row]:
    """Give the rows of a manifest, by id.

    Raises:
        BenchError: there is no manifest, or the first thing that is wrong with it.
    """
    rows, problems = parse(root)
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise BenchError(f"{problems[0]}{more} `bench datasets check {root}` lists everything.")
    return rows


def is_labelled(root: Path) -> bool:
    """Tell a labelled data set from other folders, some of which have a manifest of their own."""
    path = root / MANIFEST
    try:
        return path.is_file() and set(COLUMNS) <= set(read_table(path)[0])
    except (BenchError, OSError):
        return False


def read_table(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Read a table of comma-separated UTF-8 text: the names of its columns, and its lines.

    Raises:
        BenchError: it is no such text, or a column stands twice.
    """
    try:
        text = content_of(path).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns, entries = lines.fieldnames or (), list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchError(
            f"{path} cannot be read as comma-separated UTF-8 text: {error}."
        ) from error
    twice = [column for column in columns if column and columns.count(column) > 1]
    if twice:
        raise BenchError(f"{path} has two columns {twice[0]}: rename or delete one.")
    return columns, entries


def how_to_make(root: Path, *more: str) -> str:
    """Name the command that makes a data set of a folder with images and labels."""
    command = shlex.join(["bench", "datasets", "make", str(root), *more])
    return (
        f"`{command}` writes its manifest from images/ and labels/ in it; "
        "`bench datasets prepare` reads official releases."
    )


def _rows(root: Path, entries: list[dict[str, str]]) -> tuple[list[Row], list[str]]:
    rows: dict[str, Row] = {}  # by what some systems take for the same name of a file
    problems: list[str] = []
    for number, entry in enumerate(entries, start=2):
        where = f"{root / 'manifest.csv'} line {number}:"
        try:
            row = _row(root, entry)
        except ValueError as error:
            problems.append(f"{where} {error}.")
            continue
        if (first := rows.setdefault(file_key(row.id), row)) is not row:
            also = "" if row.id == first.id else f" as {first.id!r}, the same name to some systems"
            problems.append(f"{where} the id {row.id!r} was used before{also}; ids must be unique.")
    return sorted(rows.values(), key=lambda row: row.id), problems


def _row(root: Path, entry: dict[str, str]) -> Row:
    """Check one line; a ValueError says what is wrong with it."""
    fields = {column: entry[column] for column in COLUMNS}
    if None in fields.values() or None in entry:
        raise ValueError("it does not have one value for each column")
    for column in ("image", "label"):
        if not fields[column].isprintable():
            raise ValueError(f"the {column} {fields[column]!r} is not printable text")
        if not _stays_inside(fields[column]):
            raise ValueError(f"the {column} {fields[column]!r} does not stay inside the folder")
        if not _is_file(root / fields[column]):
            raise ValueError(f"the {column} {fields[column]!r} does not exist")
    check_words(fields)
    numbers = {column: _number(column, fields[column]) for column in ("width", "height", "nuclei")}
    share = _number("foreground", fields["foreground"], float)
    return Row(root=root, **(fields | numbers | {"foreground": share}))  # pyright: ignore


def check_words(fields: Mapping[str, str]) -> None:
    """Check names, split and magnification; a ValueError says what is wrong with one."""
    if fields["split"] not in SPLITS:
        raise ValueError(f"the split {fields['split']!r} is none of {', '.join(SPLITS)}")
    if fields["magnification"] not in MPP:
        raise ValueError(
            f"the magnification {fields['magnification']!r} is not 20x, 40x or unknown"
        )
    for column in ("id", "patient", "organ"):
        if reason := oddity(column, fields[column]):
            raise ValueError(reason)


def _number(column: str, text: str, kind: type = int) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ValueError(f"the {column} {text!r} is not a number")
    return value


def oddity(column: str, name: str) -> str:
    """Say why the name of an image, a patient or an organ is refused; "" where it is not.

    Records take these names over, and `bench merge` asks as much of them.
    """
    if column == "id" and not is_file_name(name):
        return f"the id {name!r} cannot be a file name of at most {MAX_NAME_BYTES} bytes"
    if column == "patient" and not name:
        return "the patient is empty (give each image its own where none is known)"
    if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        cut = name if len(name) <= MAX_NAME_BYTES else f"{name[:40]}..."
        return f"the {column} {cut!r} is not printable text of at most {MAX_NAME_BYTES} bytes"
    if column != "organ" and name != name.strip():
        return f"the {column} {name!r} begins or ends with a blank"
    if not unicodedata.is_normalized("NFC", name):
        return (
            f"the {column} {name!r} is not in the Unicode form NFC, and in two forms it would be "
            "two: write what unicodedata.normalize('NFC', ...) gives"
        )
    return ""


def file_key(name: str) -> str:
    """Give what is equal for names that some system takes for one file."""
    return unicodedata.normalize("NFC", name.casefold())


def is_file_name(name: str) -> bool:
    """Tell whether an id can be a file name on every system."""
    plain = bool(name.strip()) and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    return plain and not name.startswith(".") and len(name.encode()) <= MAX_NAME_BYTES


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    foreign = "\\" in path or "\0" in path or bool(PureWindowsPath(path).drive)
    return bool(path) and not (foreign or pure.is_absolute() or ".." in pure.parts)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for this system
        return False


def content_of(path: Path) -> bytes:
    """Read a file of the data set; a BenchError names what cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}.") from error


def match(content: bytes, path: Path, sha256: str) -> None:
    """Raise a BenchError where a file is not the one that the manifest describes."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise BenchError(
            f"{path} is not the file that the manifest describes: its sha256 is {actual}, "
            f"the manifest says {sha256 or 'nothing'}. Restore the file; if the change was meant, "
            "write the new sha256 into manifest.csv."
        )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
