"""Where the images of a folder come from: their patients, splits, organs, from a table or drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.manifest import MPP, check_words, read_table

NEEDED = ("id", "patient")
TOLD = ("split", "organ", "magnification")  # a table may tell them; else they are drawn, or given
TEST_SHARE = 0.3


@dataclass(frozen=True)
class Answers:
    """What is said of a whole folder; None where nothing is.

    Attributes:
        table: a CSV file with a line an image: id, patient, and maybe split, organ, magnification.
        organ, magnification: those of every image.
        test_share: the share of the patients that is drawn for the test split.
        seed: of that draw.
    """

    table: Path | None = None
    organ: str | None = None
    magnification: str | None = None
    test_share: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Origins:
    """What is known of each image.

    Attributes:
        of: by id: patient, split, organ and magnification, by the columns of a manifest.
        problems: all that is wrong with the table.
        notes: what was assumed, drawn or not read.
    """

    of: Mapping[str, Mapping[str, str]]
    problems: Sequence[str]
    notes: Sequence[str]


def origins(images: Sequence[str], answers: Answers, *, draw: bool = True) -> Origins:
    """Find out where images come from, by their ids.

    Args:
        draw: draw a split where none is said; without, as of files that are wrong, all train.

    Raises:
        BenchError: the table cannot be read or lacks a column, what is said contradicts it, or no
            split can be drawn.
    """
    columns, known, problems = NEEDED, {name: {"patient": name} for name in images}, []
    notes = [
        "no --table: each image is taken for a patient of its own. Where one patient has several, "
        "say so in a table (id, patient): else the split leaks and intervals are too narrow"
    ]
    if answers.table is not None:
        columns, entries = _table(answers.table)
        known, problems = _lines(answers.table, entries, images)
        notes = _not_read(answers.table, columns)
    _refuse_contradictions(columns, answers)
    whole = {"organ": answers.organ or "", "magnification": answers.magnification or "unknown"}
    patients = {fields["patient"] for fields in known.values()}
    if "split" in columns or problems or not draw:
        splits = dict.fromkeys(patients, "train")
    else:
        splits = _drawn(patients, answers)
        notes.append(_told(splits, answers))
    found = {
        name: whole | {"split": splits[fields["patient"]]} | fields
        for name, fields in known.items()
    }
    return Origins(found, [*problems, *_wrong(found, answers.table)], notes)


def seeded_split(name: str, patients: set[str], test_share: float) -> dict[str, str]:
    """Split patients into train and test, the same way on every machine and in every order.

    Each split has a patient where there are two or more; a single one trains.
    """
    order = sorted(
        patients,
        key=lambda own: hashlib.sha256(f"{name}/{own}".encode("utf-8", "surrogateescape")).digest(),
    )
    tested = min(max(1, round(test_share * len(order))), len(order) - 1)
    return {patient: "test" if place < tested else "train" for place, patient in enumerate(order)}


def _table(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    columns, entries = read_table(path)
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        has = ", ".join(columns) or "none"
        raise BenchError(
            f"{path} lacks the columns {', '.join(missing)}; it has {has}. Its first line names "
            f"them, with commas between them: {', '.join(NEEDED)}, and maybe {', '.join(TOLD)}."
        )
    return tuple(columns), entries


def _lines(
    path: Path, entries: Sequence[Mapping[str, str]], images: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Give what the table says of each image, and what is wrong with its lines."""
    known: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries, start=2):
        name = entry["id"]
        if None in entry or None in entry.values():
            problems.append(f"{path} line {number}: it does not have one value for each column.")
        elif name in known:
            problems.append(f"{path} line {number}: the id {name!r} was used before.")
        elif name not in images:
            problems.append(
                f"{path} line {number}: there is no image {name!r}. An id is the name of an image "
                "without its ending."
            )
        else:
            known[name] = {key: entry[key] for key in ("patient", *TOLD) if key in entry}
    problems += [
        f"{path} has no line for the image {name!r}." for name in images if name not in known
    ]
    return known, problems


def _not_read(path: Path, columns: Sequence[str]) -> list[str]:
    others = [column for column in columns if column not in (*NEEDED, *TOLD)]
    return [f"of {path.name} these columns are not read: {', '.join(others)}"] if others else []


def _refuse_contradictions(columns: Sequence[str], answers: Answers) -> None:
    for column, option in (
        ("organ", answers.organ),
        ("magnification", answers.magnification),
        ("split", answers.test_share),
        ("split", answers.seed),
    ):
        if column in columns and option is not None:
            named = "--test-share or --seed" if column == "split" else f"--{column}"
            raise BenchError(
                f"{answers.table} has a column {column} already: leave {named} out, or the column."
            )
    if answers.magnification is not None and answers.magnification not in MPP:
        raise BenchError(
            f"--magnification {answers.magnification!r} is not 20x, 40x or unknown: resample the "
            "images to one of them, or leave it out."
        )
    if answers.test_share is not None and not 0 < answers.test_share < 1:
        raise BenchError(f"--test-share {answers.test_share} does not lie between 0 and 1.")


def _drawn(patients: set[str], answers: Answers) -> dict[str, str]:
    if len(patients) < 2:
        raise BenchError(
            f"{len(patients)} patient cannot be split into train and test: two or more are needed. "
            "A table with a column split (`--table FILE`) puts all images into one split."
        )
    return seeded_split(str(answers.seed or 0), patients, answers.test_share or TEST_SHARE)


def _told(splits: Mapping[str, str], answers: Answers) -> str:
    tested = sum(split == "test" for split in splits.values())
    return (
        f"the split was drawn by patient (--test-share {answers.test_share or TEST_SHARE} "
        f"--seed {answers.seed or 0}): {len(splits) - tested} train, {tested} test"
    )


def _wrong(found: Mapping[str, Mapping[str, str]], table: Path | None) -> list[str]:
    """Check the words of each image as a manifest needs them."""
    problems = []
    for name, fields in found.items():
        try:
            check_words({"id": name, **fields})
        except ValueError as error:
            problems.append(f"{f'{table}, ' if table else ''}image {name!r}: {error}.")
    return problems
