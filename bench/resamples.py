"""Resamples of whole patients, with all their images: drawn once for everything that is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def patient_weights(patients: Sequence[str], resamples: int, seed_text: str) -> np.ndarray:
    """Draw patients with replacement: how often each is in each resample, (B, P) float64.

    The columns are the distinct patients in sorted order; every row sums to P. Read-only.
    """
    return drawn_patients(len(set(patients)), resamples, seed_text)


def drawn_patients(count: int, resamples: int, seed_text: str) -> np.ndarray:
    """Draw so many patients: see `patient_weights`."""
    return drawn(count, resamples, f"patients\n{seed_text}")


def seeded(text: str) -> np.random.Generator:
    """Give the random numbers that a text names; the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))


@lru_cache(maxsize=2)  # the patients and the draws of the set at hand
def drawn(units: int, resamples: int, text: str) -> np.ndarray:
    """Draw `units` of `units` with replacement, `resamples` times: counts (B, units) float64."""
    which = seeded(text).integers(0, max(units, 1), size=(resamples, units))
    which += units * np.arange(resamples)[:, None]
    counts = np.bincount(which.ravel(), minlength=resamples * units)
    weights = counts.reshape(resamples, units).astype(float)
    weights.flags.writeable = False
    return weights


def by_patient(values: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum scores (..., n) over the images of each patient: (..., P), and count the images: (P,)."""
    values = np.asarray(values, dtype=float)
    assert values.shape[-1] == len(patients)
    assert np.isfinite(values).all()
    if not len(patients):
        return np.zeros((*values.shape[:-1], 0)), np.zeros(0)
    place = {name: i for i, name in enumerate(sorted(set(patients)))}
    which = np.array([place[name] for name in patients])  # (n,)
    sizes = np.bincount(which)  # (P,)
    first = np.cumsum(sizes) - sizes
    by_name = values[..., np.argsort(which, kind="stable")]
    return np.add.reduceat(by_name, first, axis=-1), sizes.astype(float)
