"""Options of `bench datasets make`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.api.options import option

METADATA, SPLIT, OUTPUT = "Metadata", "Split", "Output"
TEST_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class MakeConfig:
    """The options of `bench datasets make`; None if not set."""

    table: Path | None = option(
        None,
        "A CSV file with one row per image: id, patient, and optionally split, organ and "
        "magnification.",
        panel=METADATA,
    )
    organ: str | None = option(None, "The organ of all images.", panel=METADATA)
    magnification: str | None = option(
        None,
        "The magnification of all images: 20x, 40x or unknown. The default is unknown.",
        panel=METADATA,
    )
    binary: bool = option(
        False,
        "Labels are masks of 0 and one other value: count each connected component as a nucleus.",
        panel=METADATA,
    )
    test_share: float | None = option(
        None,
        f"The fraction of the patients to draw for the test split. The default is {TEST_SHARE}.",
        panel=SPLIT,
    )
    seed: int | None = option(None, "The seed of this draw. The default is 0.", panel=SPLIT)
    out: Path | None = option(
        None, "The folder of a copy. The default is FOLDER itself.", panel=OUTPUT
    )
    force: bool = option(False, "Replace an existing manifest.", panel=OUTPUT)
