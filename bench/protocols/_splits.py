"""Training and test images of trials: the official split, or cross-validation folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.api import PlanOptions, Sample, Trial
from bench.api.seeds import seed_of_words
from bench.errors import BenchError

Part = tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]  # tags, training ids, test ids


def trial(tags: dict[str, int], train: Sequence[str], test: Sequence[str], seed: int) -> Trial:
    """Return a trial, with a seed derived from the run's seed and the tags."""
    words = [f"{key}={value}" for key, value in sorted(tags.items())]
    return Trial(tuple(train), tuple(test), seed_of_words(seed, *words), tags)


def ordering(train: Sequence[str], seed: int, draw: int) -> list[str]:
    """Return the training images in random order, seeded by their ids, `seed` and `draw`.

    A support set is the start of this order. So support sets are nested, and shared by all
    backbones.
    """
    ids = sorted(train)
    rng = np.random.default_rng(seed_of_words("support", seed, draw, *ids))
    return [ids[i] for i in rng.permutation(len(ids))]


def parts(samples: Sequence[Sample], options: PlanOptions) -> list[Part]:
    """Split the samples into (tags, training ids, test ids).

    Without folds: the official training and test split; a `val` split is not used, since nothing is
    selected on it. With folds: every image is scored exactly once, and all images of a patient are
    in the same fold.

    Raises:
        BenchError: an empty training or test split, or more folds than patients.
    """
    if options.folds:
        return _folds(samples, options.folds)
    train = tuple(sample.id for sample in samples if sample.split == "train")
    test = tuple(sample.id for sample in samples if sample.split == "test")
    if not train or not test:
        raise BenchError(
            f"the data set has {len(train)} training and {len(test)} test images; both are needed. "
            "Use --folds K to score every image by cross-validation instead."
        )
    return [({}, train, test)]


def _folds(samples: Sequence[Sample], k: int) -> list[Part]:
    by_patient: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        by_patient[sample.patient].append(sample.id)
    if not 2 <= k <= len(by_patient):
        raise BenchError(
            f"--folds {k} does not fit: folds are grouped by patient and there are "
            f"{len(by_patient)} patients. Choose a number from 2 to {len(by_patient)}."
        )
    fold_of_patient = _assign_patients(by_patient, k)
    fold_of_image = {sample.id: fold_of_patient[sample.patient] for sample in samples}
    return [
        (
            {"fold": fold},
            tuple(image for image, image_fold in fold_of_image.items() if image_fold != fold),
            tuple(image for image, image_fold in fold_of_image.items() if image_fold == fold),
        )
        for fold in range(k)
    ]


def _assign_patients(by_patient: dict[str, list[str]], k: int) -> dict[str, int]:
    """Assign patients to the smallest fold so far, largest patient first, ties in random order.

    The random order depends only on the image ids, so all backbones and seeds share the folds.
    """
    patients = sorted(by_patient)
    seed = seed_of_words("folds", k, *sorted(image for ids in by_patient.values() for image in ids))
    shuffled = [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    sizes = [0] * k
    fold_of = {}
    for patient in sorted(shuffled, key=lambda name: -len(by_patient[name])):
        fold_of[patient] = sizes.index(min(sizes))
        sizes[fold_of[patient]] += len(by_patient[patient])
    return fold_of
