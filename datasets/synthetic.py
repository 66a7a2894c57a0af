"""Synthetic tissue: the built-in set, made from fixed seeds when asked for, with exact labels.

Twelve patients, two fields each. Every patient has a stain, a scanner and a kind of tissue of their
own, and is either in train or in test: colours learned in one laboratory are tested in another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from bench.api import Dataset, Sample

from ._stain import Stain, photograph
from ._tissue import Recipe, grow

VERSION = 1  # names the pixels in every record: raise it with each change that moves one
SIDE_PX = 256
MPP = 0.25
TRAIN, TEST = range(1, 7), range(7, 13)
FIELDS = (1, 2)


def samples() -> list[Sample]:
    """List the samples; each is rendered, the same every time, when it is read."""
    return [
        Sample(
            id=f"p{patient:02d}_{field}",
            split="train" if patient in TRAIN else "test",
            patient=f"p{patient:02d}",
            organ="synthetic",
            mpp=MPP,
            fingerprint=_fingerprint(patient, field),
            read=partial(render, patient, field),
        )
        for patient in (*TRAIN, *TEST)
        for field in FIELDS
    ]


def render(patient: int, field: int) -> tuple[np.ndarray, np.ndarray]:
    """Make one field: image (256, 256, 3) uint8 RGB and instances (256, 256) int32."""
    rng = np.random.default_rng([VERSION, patient, field])
    tissue = grow(recipe(patient), SIDE_PX, rng)
    image = photograph(tissue.haematoxylin, tissue.eosin, stain(patient), rng)
    return image, tissue.instances


def recipe(patient: int) -> Recipe:
    """Tell what a patient's tissue is made of."""
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
    """Tell a patient's laboratory and scanner.

    The stain vectors scatter about those of Ruifrok and Johnston 2001, with more blue and red in
    the eosin, as scanned slides have it.
    """
    draw = _draws(patient, skip=9)
    haematoxylin = draw(0.95, 1.75) * np.array([draw(0.54, 0.74), 0.70, draw(0.2, 0.42)])
    eosin = draw(0.4, 1.15) * np.array([draw(0.02, 0.22), 0.93, draw(0.14, 0.5)])
    white = np.array([draw(236, 248), draw(236, 248), draw(236, 248)])
    return Stain(haematoxylin, eosin, white, blur_px=draw(0.55, 1.0), noise=draw(1.5, 4.0))


def _draws(patient: int, skip: int = 0) -> Callable[[float, float], float]:
    """Give a function that draws the patient's next property between two bounds.

    The patients are a Latin hypercube: each property takes twelve evenly spaced values, one a
    patient, in an order of its own, so that patients differ as much as the bounds allow.
    """
    rng = np.random.default_rng(VERSION)
    count = len(TRAIN) + len(TEST)
    for _ in range(skip):
        rng.permutation(count)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * (rng.permutation(count)[patient - 1] + 0.5) / count

    return draw


def _fingerprint(patient: int, field: int) -> str:
    """Name the pixels without making them: nothing but version, patient and field decides them."""
    return hashlib.sha256(f"synthetic {VERSION} {patient} {field}".encode()).hexdigest()


synthetic = Dataset(
    name="synthetic",
    generate=samples,
    title="Synthetic H&E: 24 images of 12 patients, built in, exact labels",
    license="CC0 1.0",
    input_px={0: 512, 14: 504},
)
