"""Synthetic tissue: the built-in data set, generated from fixed seeds, with exact labels.

There are twelve patients with two fields each. Stain, scanner and tissue differ between patients,
and patients are split into train and test, so models are tested on unseen stains and scanners.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from bench.api import Dataset, Sample

from ._stain import Stain, photograph
from ._tissue import Recipe, grow

VERSION = 1  # part of the identity of the pixels: increase it with every change of a pixel
SIDE_PX = 256
MPP = 0.25
TRAIN, TEST = range(1, 7), range(7, 13)
FIELDS = (1, 2)


def samples() -> list[Sample]:
    """List the samples; a sample is rendered, deterministically, when it is read."""
    return [
        Sample(
            id=f"p{patient:02d}_{field}",
            split="train" if patient in TRAIN else "test",
            patient=f"p{patient:02d}",
            organ="synthetic",
            mpp=MPP,
            fingerprint=_fingerprint(patient, field),
            read=partial(render, patient, field),
            size=(SIDE_PX, SIDE_PX),
        )
        for patient in (*TRAIN, *TEST)
        for field in FIELDS
    ]


def render(patient: int, field: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one field: image (256, 256, 3) uint8 RGB and instances (256, 256) int32."""
    rng = np.random.default_rng([VERSION, patient, field])
    tissue = grow(recipe(patient), SIDE_PX, rng)
    image = photograph(tissue.haematoxylin, tissue.eosin, stain(patient), rng)
    return image, tissue.instances


def recipe(patient: int) -> Recipe:
    """Return the composition of a patient's tissue."""
    draw = _draws(patient)
    return Recipe(
        tumour=draw(0.35, 0.8),
        cellularity=draw(0.03, 0.25),
        inflammation=draw(0.0, 0.8),
        basophilia=draw(0.22, 0.56),
        chromatin=draw(0.8, 1.25),
        size=draw(0.78, 1.15),
        mucin=draw(0.0, 0.25),
        blood=draw(0.0, 0.06),
        gaps=draw(0.0, 0.12),
    )


def stain(patient: int) -> Stain:
    """Return the stain and scanner of a patient.

    Stain vectors vary around those of Ruifrok and Johnston 2001, with more blue and red in the
    eosin, as in scanned slides.
    """
    draw = _draws(patient, skip=9)
    haematoxylin = draw(0.95, 1.75) * np.array([draw(0.54, 0.74), 0.70, draw(0.2, 0.42)])
    eosin = draw(0.4, 1.15) * np.array([draw(0.02, 0.22), 0.93, draw(0.14, 0.5)])
    white = np.array([draw(236, 248), draw(236, 248), draw(236, 248)])
    return Stain(haematoxylin, eosin, white, blur_px=draw(0.55, 1.0), noise=draw(1.5, 4.0))


def _draws(patient: int, skip: int = 0) -> Callable[[float, float], float]:
    """Return a function that draws the patient's next property between two bounds.

    Patients form a Latin hypercube: every property takes twelve evenly spaced values, one per
    patient, in a random order.

    Args:
        patient: from 1.
        skip: number of properties that were drawn before.
    """
    rng = np.random.default_rng(VERSION)
    count = len(TRAIN) + len(TEST)
    for _ in range(skip):
        rng.permutation(count)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * (rng.permutation(count)[patient - 1] + 0.5) / count

    return draw


def _fingerprint(patient: int, field: int) -> str:
    """Return a hash of version, patient and field, which determine the pixels."""
    return hashlib.sha256(f"synthetic {VERSION} {patient} {field}".encode()).hexdigest()


synthetic = Dataset(
    name="synthetic",
    generate=samples,
    title="Synthetic H&E: 24 images of 12 patients, built in, exact labels",
    license="CC0 1.0",
    input_px={0: 512, 14: 504},
)
