"""Sentences on the data of runs: default folds, and images that are resized much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.api.record import Record

FEWEST_TEST_PATIENTS = 10  # with fewer in the official test split, folds are the default


def notes_on_data(records: Iterable[Record]) -> list[str]:
    """Return sentences on the data of records, one per data set and subject."""
    return data_notes(
        (str(record.facts["dataset"]), record.spec.protocol.folds, record.facts)
        for record in records
    )


def data_notes(runs: Iterable[tuple[str, int, Mapping[str, Any]]]) -> list[str]:
    """Return sentences on the data of runs, one per data set and subject.

    Args:
        runs: of each run the data set, the number of folds, and its facts (see
            `bench.runs.input_size.data_facts`).
    """
    folds: dict[str, str] = {}
    resized: dict[str, Mapping[str, float]] = {}
    for dataset, count, facts in runs:
        patients = facts.get("official_test_patients", FEWEST_TEST_PATIENTS)
        if count and patients < FEWEST_TEST_PATIENTS:
            folds[dataset] = _on_folds(dataset, count, patients)
        for name, change in facts.get("resized", {}).items():
            resized[name] = max(resized.get(name, change), change, key=lambda each: each["scale"])
    return [*folds.values(), *(_on_size(name, change) for name, change in resized.items())]


def _on_folds(dataset: str, folds: int, patients: int) -> str:
    text = f"{dataset}: {folds} folds by patient, since the official test split has"
    if not patients:
        return f"{text} no images."
    plural = "s" if patients > 1 else ""
    return f"{text} {patients} patient{plural}, fewer than 10; `--folds 0` uses it."


def _on_size(dataset: str, change: Mapping[str, float]) -> str:
    side, scale, aspect = (change[name] for name in ("px", "scale", "aspect"))
    stretched = f" and distorts them by a factor of up to {aspect:.3g}" if aspect > 1.05 else ""
    return (
        f"{dataset}: resizing to {side} x {side} px changes the scale of {change['images']} of "
        f"{change['of']} images by a factor of up to {scale:.3g}{stretched}; `--view tiles` uses "
        "native resolution."
    )
