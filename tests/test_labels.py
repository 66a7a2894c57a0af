"""Training sets that grow: fractions of the images, and support sets that count nuclei."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.api import PlanOptions, Sample
from bench.errors import BenchError
from bench.protocols.fewshot import FEWSHOT
from bench.protocols.labels import LABELS


def _samples(nuclei: int = 3) -> tuple[list[Sample], list[str]]:
    """Give 20 training and 4 test images of 1 to `nuclei` nuclei, and a list of what is read."""
    reads: list[str] = []

    def sample(number: int, split: str) -> Sample:
        def read() -> tuple[np.ndarray, np.ndarray]:
            reads.append(f"{split}{number}")
            instances = np.zeros((1, 8), np.int32)
            own = number % nuclei + 1
            instances[0, :own] = 5 + np.arange(own)
            return np.zeros((1, 8, 3), np.uint8), instances

        name = f"{split}{number}"
        return Sample(name, split, name, "", None, name, read)

    samples = [sample(number, "train") for number in range(20)]
    return samples + [sample(number, "test") for number in range(4)], reads


def _count(images: tuple[str, ...]) -> int:
    return sum(int(image.removeprefix("train")) % 3 + 1 for image in images)


@pytest.mark.parametrize(
    ("fraction", "size"), [(1, 20), (0.5, 10), (0.26, 5), (0.28, 6), (0.01, 1), (1e-9, 1)]
)
def test_a_fraction_is_of_the_training_images_and_at_least_one(fraction: float, size: int) -> None:
    samples, reads = _samples()
    trials = LABELS.plan(samples, PlanOptions(fraction=fraction, draws=3))
    assert [len(set(trial.train)) for trial in trials] == [size] * 3
    assert all(len(trial.test) == 4 for trial in trials)
    assert not reads


def test_fractions_are_nested_and_their_sets_are_those_of_few_shot() -> None:
    samples, _ = _samples()
    plans = {f: LABELS.plan(samples, PlanOptions(fraction=f, draws=4)) for f in (0.1, 0.25, 1)}
    for small, large in ((0.1, 0.25), (0.25, 1)):
        for few, more in zip(plans[small], plans[large], strict=True):
            assert few.train == more.train[: len(few.train)]
    shots = FEWSHOT.plan(samples, PlanOptions(shots=5, draws=4))
    assert [trial.train for trial in shots] == [trial.train for trial in plans[0.25]]
    assert len({trial.train for trial in plans[0.25]}) == 4


def test_a_fraction_with_folds_is_of_the_other_folds() -> None:
    samples, _ = _samples()
    trials = LABELS.plan(samples, PlanOptions(fraction=0.5, draws=2, folds=4))
    assert len(trials) == 8
    assert all(len(trial.train) == 9 for trial in trials)  # of 18
    assert all(not set(trial.train) & set(trial.test) for trial in trials)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(BenchError, match="at most 1"):
        LABELS.plan(_samples()[0], PlanOptions(fraction=fraction))


def test_nuclei_are_counted_until_there_are_enough_and_no_further() -> None:
    samples, _ = _samples()
    for k in (1, 4, 9):
        for trial in FEWSHOT.plan(samples, PlanOptions(shots=k, draws=6, by="nuclei")):
            assert _count(trial.train) >= k
            assert _count(trial.train[:-1]) < k


def test_support_sets_by_nuclei_begin_like_those_by_images() -> None:
    samples, _ = _samples()
    by_nuclei = FEWSHOT.plan(samples, PlanOptions(shots=12, draws=3, by="nuclei"))
    by_images = FEWSHOT.plan(samples, PlanOptions(shots=20, draws=3))
    for few, whole in zip(by_nuclei, by_images, strict=True):
        assert few.train == whole.train[: len(few.train)]


def test_images_are_read_only_where_nuclei_are_counted_and_only_those_that_are_needed() -> None:
    samples, reads = _samples()
    FEWSHOT.plan(samples, PlanOptions(shots=5))
    assert not reads
    trials = FEWSHOT.plan(samples, PlanOptions(shots=4, draws=3, by="nuclei"))
    assert sorted(reads) == sorted({image for trial in trials for image in trial.train})


def test_more_nuclei_than_there_are_get_the_number_that_fits() -> None:
    samples, _ = _samples()
    total = _count(tuple(sample.id for sample in samples if sample.split == "train"))
    fits = PlanOptions(shots=total, by="nuclei")
    assert len(FEWSHOT.plan(samples, fits)[0].train) == 20
    with pytest.raises(BenchError, match=f"at most {total}"):
        FEWSHOT.plan(samples, dataclasses.replace(fits, shots=total + 1))
    with pytest.raises(BenchError, match="images, nuclei"):
        FEWSHOT.plan(samples, PlanOptions(by="cells"))
