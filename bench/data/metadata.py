"""Metadata of the images of a new data set: patient, split, organ and magnification."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.api.data import FolderInfo
from bench.data.manifest import MPP, check_words, read_table
from bench.errors import BenchError

NEEDED = ("id", "patient")
OPTIONAL = ("split", "organ", "magnification")  # drawn or from the options if not in the table
TEST_SHARE = 0.3


@dataclass(frozen=True)
class ImageInfo:
    """The metadata of the images.

    Attributes:
        of: by image id, the columns patient, split, organ and magnification of the manifest.
        problems: problems of the table.
        notes: assumptions, random draws and ignored columns.
    """

    of: Mapping[str, Mapping[str, str]]
    problems: Sequence[str]
    notes: Sequence[str]


def origins(images: Sequence[str], info: FolderInfo, *, draw: bool = True) -> ImageInfo:
    """Return the metadata of images with these ids.

    Args:
        draw: draw a random split if there is none; if False, all images are in the training split.

    Raises:
        BenchError: the table is unreadable or has missing columns, the options contradict it, or a
            split cannot be drawn.
    """
    columns, described, problems = NEEDED, {name: {"patient": name} for name in images}, []
    notes = [
        "no --table: each image counts as a separate patient. If a patient has several images, "
        "provide a table (id, patient); otherwise the split leaks and intervals are too narrow"
    ]
    if info.table is not None:
        columns, entries = _table(info.table)
        described, problems = _lines(info.table, entries, images)
        notes = _ignored_columns(info.table, columns)
    _refuse_contradictions(columns, info)
    defaults = {"organ": info.organ or "", "magnification": info.magnification or "unknown"}
    patients = {fields["patient"] for fields in described.values()}
    if "split" in columns or problems or not draw:
        splits = dict.fromkeys(patients, "train")
    else:
        splits = _draw_split(patients, info)
        notes.append(_split_note(splits, info))
    origin = {
        name: defaults | {"split": splits[fields["patient"]]} | fields
        for name, fields in described.items()
    }
    return ImageInfo(origin, [*problems, *_word_problems(origin, info.table)], notes)


def seeded_split(name: str, patients: set[str], test_share: float) -> dict[str, str]:
    """Split patients into train and test, independent of their order and of the machine.

    With two or more patients, both splits have at least one; a single patient is in train.
    """

    def digest(patient: str) -> bytes:
        return hashlib.sha256(f"{name}/{patient}".encode("utf-8", "surrogateescape")).digest()

    order = sorted(patients, key=digest)
    n_test = min(max(1, round(test_share * len(order))), len(order) - 1)
    return {patient: "test" if rank < n_test else "train" for rank, patient in enumerate(order)}


def _table(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    columns, entries = read_table(path)
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        has = ", ".join(columns) or "none"
        raise BenchError(
            f"{path} has no columns {', '.join(missing)}; it has {has}. The first line must "
            f"contain the columns {', '.join(NEEDED)}, and optionally {', '.join(OPTIONAL)}."
        )
    return tuple(columns), entries


def _lines(
    path: Path, entries: Sequence[Mapping[str, str]], images: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the fields of each image in the table, and the problems of its rows."""
    described: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries, start=2):
        name = entry["id"]
        if None in entry or None in entry.values():
            problems.append(f"{path} line {number}: it does not have one value for each column.")
        elif name in described:
            problems.append(f"{path} line {number}: duplicate id {name!r}.")
        elif name not in images:
            problems.append(
                f"{path} line {number}: there is no image {name!r}. An id is the file name of an "
                "image without the suffix."
            )
        else:
            described[name] = {key: entry[key] for key in ("patient", *OPTIONAL) if key in entry}
    problems += [
        f"{path} has no row for the image {name!r}." for name in images if name not in described
    ]
    return described, problems


def _ignored_columns(path: Path, columns: Sequence[str]) -> list[str]:
    others = [column for column in columns if column not in (*NEEDED, *OPTIONAL)]
    return [f"ignored columns of {path.name}: {', '.join(others)}"] if others else []


def _refuse_contradictions(columns: Sequence[str], info: FolderInfo) -> None:
    for column, value in (
        ("organ", info.organ),
        ("magnification", info.magnification),
        ("split", info.test_share),
        ("split", info.seed),
    ):
        if column in columns and value is not None:
            name = "--test-share or --seed" if column == "split" else f"--{column}"
            raise BenchError(
                f"{info.table} already has a column {column}. Omit {name}, or the column."
            )
    if info.magnification is not None and info.magnification not in MPP:
        raise BenchError(
            f"--magnification {info.magnification!r} is not 20x, 40x or unknown. Resample the "
            "images, or omit the option."
        )
    if info.test_share is not None and not 0 < info.test_share < 1:
        raise BenchError(f"--test-share {info.test_share} is not between 0 and 1.")


def _draw_split(patients: set[str], info: FolderInfo) -> dict[str, str]:
    if len(patients) < 2:
        raise BenchError(
            f"{len(patients)} patient cannot be split into train and test; at least two are "
            "needed. To put all images into one split, use a table with a column split "
            "(`--table FILE`)."
        )
    return seeded_split(str(info.seed or 0), patients, info.test_share or TEST_SHARE)


def _split_note(splits: Mapping[str, str], info: FolderInfo) -> str:
    n_test = sum(split == "test" for split in splits.values())
    return (
        f"the split was drawn by patient (--test-share {info.test_share or TEST_SHARE} "
        f"--seed {info.seed or 0}): {len(splits) - n_test} train, {n_test} test"
    )


def _word_problems(origin: Mapping[str, Mapping[str, str]], table: Path | None) -> list[str]:
    """Check that the fields of each image are valid in a manifest."""
    problems = []
    for name, fields in origin.items():
        try:
            check_words({"id": name, **fields})
        except ValueError as error:
            problems.append(f"{f'{table}, ' if table else ''}image {name!r}: {error}.")
    return problems
