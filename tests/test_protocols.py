"""Protocols are pure: samples and options in, trials out."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import PlanOptions, Sample
from bench.errors import BenchError
from bench.protocols.fewshot import FEWSHOT
from bench.protocols.full import LINEAR_PROBE
from bench.protocols.labels import LABELS


def sample(name: str, split: str, patient: str, nuclei: int, reads: list[str]) -> Sample:
    def read() -> tuple[np.ndarray, np.ndarray]:
        reads.append(name)
        instances = np.zeros((1, 8), np.int32)
        instances[0, :nuclei] = 5 + np.arange(nuclei)
        return np.zeros((1, 8, 3), np.uint8), instances

    return Sample(name, split, patient, "", None, name, read)


SAMPLES = [  # 4 + 1 + 3 patients with 1 to 3 images
    sample(f"p{p}_{i}", split, f"p{p}", 1, [])
    for p, split in enumerate(["train"] * 4 + ["val"] + ["test"] * 3)
    for i in range(p % 3 + 1)
]
TRAIN = {image.id for image in SAMPLES if image.split == "train"}
TEST = {image.id for image in SAMPLES if image.split == "test"}


def test_the_official_split_trains_on_train_scores_test_and_ignores_val():
    (trial,) = LINEAR_PROBE.plan(SAMPLES, PlanOptions())
    assert set(trial.train) == TRAIN
    assert set(trial.test) == TEST


def test_folds_score_every_image_once_and_do_not_divide_patients():
    trials = LINEAR_PROBE.plan(SAMPLES, PlanOptions(folds=4))
    scored = [image for trial in trials for image in trial.test]
    assert sorted(scored) == sorted(image.id for image in SAMPLES)
    for trial in trials:
        patients = [{name.split("_")[0] for name in part} for part in (trial.train, trial.test)]
        assert not patients[0] & patients[1]
        assert len(trial.train) + len(trial.test) == len(SAMPLES)


def test_folds_have_similar_sizes_and_do_not_depend_on_the_seed_or_the_order():
    plans = [
        LINEAR_PROBE.plan(samples, PlanOptions(folds=3, seed=seed))
        for samples, seed in ((SAMPLES, 0), (SAMPLES, 7), (SAMPLES[::-1], 0))
    ]
    folds = [{frozenset(trial.test) for trial in plan} for plan in plans]
    assert folds[0] == folds[1] == folds[2]
    sizes = [len(trial.test) for trial in plans[0]]
    assert max(sizes) - min(sizes) <= 2


def test_support_sets_are_nested_in_k_and_differ_between_draws():
    plans = {k: FEWSHOT.plan(SAMPLES, PlanOptions(shots=k, draws=6)) for k in (1, 3, 5)}
    for small, large in ((1, 3), (3, 5)):
        for few, more in zip(plans[small], plans[large], strict=True):
            assert few.train == more.train[:small]
    assert len({trial.train for trial in plans[3]}) > 1
    for trial in plans[5]:
        assert set(trial.train) <= TRAIN
        assert len(set(trial.train)) == 5
        assert set(trial.test) == TEST


def test_support_sets_depend_on_the_seed_but_not_on_the_order_of_images():
    plans = [
        FEWSHOT.plan(samples, PlanOptions(shots=2, seed=seed))
        for samples, seed in ((SAMPLES, 0), (SAMPLES, 0), (SAMPLES[::-1], 0), (SAMPLES, 1))
    ]
    first, again, reversed_order, reseeded = ([trial.train for trial in plan] for plan in plans)
    assert first == again == reversed_order != reseeded


def test_every_training_image_is_equally_likely_in_a_support_set():
    trials = FEWSHOT.plan(SAMPLES, PlanOptions(shots=1, draws=700))
    counts = np.unique([trial.train[0] for trial in trials], return_counts=True)[1]
    assert len(counts) == len(TRAIN) == 7
    assert counts.min() > 60  # 100 expected, standard deviation 9


def test_trials_have_different_seeds_which_follow_the_seed_of_the_run():
    trials = FEWSHOT.plan(SAMPLES, PlanOptions(shots=2, draws=5, folds=3))
    assert len({trial.seed for trial in trials}) == len(trials) == 15
    seeds = [LINEAR_PROBE.plan(SAMPLES, PlanOptions(seed=seed))[0].seed for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_invalid_options_are_refused():
    for protocol, options, message in [
        (LINEAR_PROBE, PlanOptions(folds=1), "from 2 to 8"),
        (LINEAR_PROBE, PlanOptions(folds=9), "from 2 to 8"),
        (FEWSHOT, PlanOptions(shots=8), "at most 7"),
        (FEWSHOT, PlanOptions(shots=0), "at least 1"),
        (FEWSHOT, PlanOptions(shots=8, by="nuclei"), "at most 7"),
        (FEWSHOT, PlanOptions(by="cells"), "images, nuclei"),
        *(
            (LABELS, PlanOptions(fraction=fraction), "at most 1")
            for fraction in (0, -0.5, 1.01, float("nan"))
        ),
    ]:
        with pytest.raises(BenchError, match=message):
            protocol.plan(SAMPLES, options)


# ---- fractions of the labels, and support sets that count nuclei ------------------------------


def images_with_nuclei() -> tuple[list[Sample], list[str]]:
    """Return 20 training and 4 test images of 1 to 3 nuclei, and the list of images read."""
    reads: list[str] = []
    numbered = [("train", number) for number in range(20)] + [("test", n) for n in range(4)]
    samples = [sample(f"{s}{n}", s, f"{s}{n}", n % 3 + 1, reads) for s, n in numbered]
    return samples, reads


def nuclei_in(images: tuple[str, ...]) -> int:
    return sum(int(image.removeprefix("train")) % 3 + 1 for image in images)


def test_a_fraction_is_of_the_training_images_and_at_least_one_image() -> None:
    samples, reads = images_with_nuclei()
    for fraction, size in [(1, 20), (0.5, 10), (0.26, 5), (0.28, 6), (0.01, 1), (1e-9, 1)]:
        trials = LABELS.plan(samples, PlanOptions(fraction=fraction, draws=3))
        assert [len(set(trial.train)) for trial in trials] == [size] * 3
        assert all(len(trial.test) == 4 for trial in trials)
    assert not reads


def test_fractions_are_nested_and_equal_the_support_sets_of_fewshot() -> None:
    samples, _ = images_with_nuclei()
    plans = {f: LABELS.plan(samples, PlanOptions(fraction=f, draws=4)) for f in (0.1, 0.25, 1)}
    for small, large in ((0.1, 0.25), (0.25, 1)):
        for few, more in zip(plans[small], plans[large], strict=True):
            assert few.train == more.train[: len(few.train)]
    shots = FEWSHOT.plan(samples, PlanOptions(shots=5, draws=4))
    assert [trial.train for trial in shots] == [trial.train for trial in plans[0.25]]
    assert len({trial.train for trial in plans[0.25]}) == 4


def test_a_fraction_with_folds_is_of_the_other_folds() -> None:
    samples, _ = images_with_nuclei()
    trials = LABELS.plan(samples, PlanOptions(fraction=0.5, draws=2, folds=4))
    assert len(trials) == 8
    assert all(len(trial.train) == 9 for trial in trials)  # of 18
    assert all(not set(trial.train) & set(trial.test) for trial in trials)


def test_a_support_set_by_nuclei_is_the_shortest_prefix_with_enough_nuclei() -> None:
    samples, _ = images_with_nuclei()
    by_images = FEWSHOT.plan(samples, PlanOptions(shots=20, draws=6))
    for k in (1, 4, 9):
        by_nuclei = FEWSHOT.plan(samples, PlanOptions(shots=k, draws=6, by="nuclei"))
        for trial, whole in zip(by_nuclei, by_images, strict=True):
            assert nuclei_in(trial.train) >= k > nuclei_in(trial.train[:-1])
            assert trial.train == whole.train[: len(trial.train)]
    total = nuclei_in(by_images[0].train)
    assert len(FEWSHOT.plan(samples, PlanOptions(shots=total, by="nuclei"))[0].train) == 20
    with pytest.raises(BenchError, match=f"at most {total}"):
        FEWSHOT.plan(samples, PlanOptions(shots=total + 1, by="nuclei"))


def test_images_are_read_only_to_count_nuclei_and_only_if_needed() -> None:
    samples, reads = images_with_nuclei()
    FEWSHOT.plan(samples, PlanOptions(shots=5))
    assert not reads
    trials = FEWSHOT.plan(samples, PlanOptions(shots=4, draws=3, by="nuclei"))
    assert sorted(reads) == sorted({image for trial in trials for image in trial.train})
