"""Bootstrap resamples of patients, shared by all models and metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def patient_weights(patients: Sequence[str], resamples: int, seed_text: str) -> np.ndarray:
    """Return how often each patient is drawn in each resample, (B, P) float64, read-only.

    The columns are the distinct patients in sorted order; every row sums to P.
    """
    return drawn_patients(len(set(patients)), resamples, seed_text)


def drawn_patients(count: int, resamples: int, seed_text: str) -> np.ndarray:
    """Return the weights (B, count) of `count` patients: see `patient_weights`."""
    return drawn(count, resamples, f"patients\n{seed_text}")


def seeded(text: str) -> np.random.Generator:
    """Return a generator seeded by the SHA-256 of a text; the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))


@lru_cache(maxsize=2)  # the patients and the few-shot draws of the current data set
def drawn(units: int, resamples: int, text: str) -> np.ndarray:
    """Draw `units` of `units` with replacement, `resamples` times: counts (B, units) float64."""
    indices = seeded(text).integers(0, max(units, 1), size=(resamples, units))
    indices += units * np.arange(resamples)[:, None]
    counts = np.bincount(indices.ravel(), minlength=resamples * units)
    weights = counts.reshape(resamples, units).astype(float)
    weights.flags.writeable = False
    return weights


def by_patient(values: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums (..., P) of scores (..., n) by patient, and the numbers of images (P,)."""
    values = np.asarray(values, dtype=float)
    assert values.shape[-1] == len(patients)
    assert np.isfinite(values).all()
    if not len(patients):
        return np.zeros((*values.shape[:-1], 0)), np.zeros(0)
    index_of = {name: i for i, name in enumerate(sorted(set(patients)))}
    indices = np.array([index_of[name] for name in patients])  # (n,)
    sizes = np.bincount(indices)  # (P,)
    starts = np.cumsum(sizes) - sizes  # (P,)
    grouped = values[..., np.argsort(indices, kind="stable")]
    return np.add.reduceat(grouped, starts, axis=-1), sizes.astype(float)
