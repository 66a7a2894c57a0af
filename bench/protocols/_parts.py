"""Who trains and who is scored: the official split, or folds over all images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.api import PlanOptions, Sample, Trial
from bench.errors import BenchError

Part = tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]  # tags, training ids, test ids


def seed_of(*words: object) -> int:
    """Derive a 63-bit seed from words; the same on every machine."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def trial(tags: dict[str, int], train: Sequence[str], test: Sequence[str], seed: int) -> Trial:
    """Make a trial whose seed follows from the run's seed and the trial's tags."""
    words = [f"{key}={value}" for key, value in sorted(tags.items())]
    return Trial(tuple(train), tuple(test), seed_of(seed, *words), tags)


def ordering(train: Sequence[str], seed: int, draw: int) -> list[str]:
    """Order the training images for a draw; seeded by their ids, whatever order they come in.

    A support set is the beginning of it. So sets are nested, and shared by all backbones.
    """
    ids = sorted(train)
    rng = np.random.default_rng(seed_of("support", seed, draw, *ids))
    return [ids[i] for i in rng.permutation(len(ids))]


def parts(samples: Sequence[Sample], options: PlanOptions) -> list[Part]:
    """Split the samples into (tags, training ids, test ids).

    Without folds: the official training and test split; a `val` split is used by neither, since
    nothing is ever selected. With folds: every image is scored exactly once, and the images of a
    patient stand on one side.

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
    fold_of = _deal_patients(by_patient, k)
    ids = {sample.id: fold_of[sample.patient] for sample in samples}
    return [
        (
            {"fold": fold},
            tuple(each for each, own in ids.items() if own != fold),
            tuple(each for each, own in ids.items() if own == fold),
        )
        for fold in range(k)
    ]


def _deal_patients(by_patient: dict[str, list[str]], k: int) -> dict[str, int]:
    """Deal the patients, largest first and ties in a shuffled order, to the smallest fold so far.

    The order is seeded by the image ids alone: every backbone and every seed sees the same folds.
    """
    everyone = sorted(by_patient)
    seed = seed_of("folds", k, *sorted(each for ids in by_patient.values() for each in ids))
    shuffled = [everyone[i] for i in np.random.default_rng(seed).permutation(len(everyone))]
    sizes = [0] * k
    fold_of = {}
    for patient in sorted(shuffled, key=lambda name: -len(by_patient[name])):
        fold_of[patient] = sizes.index(min(sizes))
        sizes[fold_of[patient]] += len(by_patient[patient])
    return fold_of
