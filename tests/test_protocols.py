"""Protocols are pure: samples and options in, trials out."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import PlanOptions, Sample
from bench.errors import BenchError
from bench.protocols.fewshot import FEWSHOT
from bench.protocols.full import LINEAR_PROBE


def _sample(name: str, split: str, patient: str) -> Sample:
    empty = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    return Sample(name, split, patient, "", None, name, lambda: empty)


SAMPLES = [
    _sample(f"p{p}_{i}", split, f"p{p}")
    for p, split in enumerate(["train"] * 4 + ["val"] + ["test"] * 3)
    for i in range(p % 3 + 1)
]
TRAIN = {sample.id for sample in SAMPLES if sample.split == "train"}
TEST = {sample.id for sample in SAMPLES if sample.split == "test"}


def test_the_official_split_trains_on_train_and_scores_test_and_leaves_val_alone():
    (trial,) = LINEAR_PROBE.plan(SAMPLES, PlanOptions())
    assert set(trial.train) == TRAIN
    assert set(trial.test) == TEST


def test_folds_score_every_image_once_and_keep_patients_together():
    trials = LINEAR_PROBE.plan(SAMPLES, PlanOptions(folds=4))
    scored = [image for trial in trials for image in trial.test]
    assert sorted(scored) == sorted(sample.id for sample in SAMPLES)
    for trial in trials:
        patients = [{name.split("_")[0] for name in part} for part in (trial.train, trial.test)]
        assert not patients[0] & patients[1]
        assert len(trial.train) + len(trial.test) == len(SAMPLES)


def test_folds_are_of_nearly_equal_size_and_do_not_depend_on_the_seed_or_the_order():
    plans = [
        LINEAR_PROBE.plan(samples, PlanOptions(folds=3, seed=seed))
        for samples, seed in ((SAMPLES, 0), (SAMPLES, 7), (SAMPLES[::-1], 0))
    ]
    folds = [{frozenset(trial.test) for trial in plan} for plan in plans]
    assert folds[0] == folds[1] == folds[2]
    sizes = [len(trial.test) for trial in plans[0]]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("folds", [1, 9])
def test_a_number_of_folds_that_patients_cannot_fill_is_refused(folds):
    with pytest.raises(BenchError, match="from 2 to 8"):
        LINEAR_PROBE.plan(SAMPLES, PlanOptions(folds=folds))


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


def test_support_sets_are_the_same_each_time_and_follow_the_seed():
    first, again = (FEWSHOT.plan(SAMPLES, PlanOptions(shots=2)) for _ in range(2))
    other = FEWSHOT.plan(SAMPLES[::-1], PlanOptions(shots=2))
    assert [trial.train for trial in first] == [trial.train for trial in again]
    assert [trial.train for trial in first] == [trial.train for trial in other]
    reseeded = FEWSHOT.plan(SAMPLES, PlanOptions(shots=2, seed=1))
    assert [trial.train for trial in first] != [trial.train for trial in reseeded]


def test_every_training_image_is_as_likely_in_a_support_set():
    trials = FEWSHOT.plan(SAMPLES, PlanOptions(shots=1, draws=700))
    counts = np.unique([trial.train[0] for trial in trials], return_counts=True)[1]
    assert len(counts) == len(TRAIN) == 7
    assert counts.min() > 60  # 100 expected, standard deviation 9


def test_trials_of_one_plan_have_seeds_of_their_own():
    trials = FEWSHOT.plan(SAMPLES, PlanOptions(shots=2, draws=5, folds=3))
    assert len({trial.seed for trial in trials}) == len(trials) == 15


def test_the_seed_of_a_trial_follows_the_seed_of_the_run():
    plans = [LINEAR_PROBE.plan(SAMPLES, PlanOptions(seed=seed)) for seed in (0, 0, 1)]
    seeds = [trials[0].seed for trials in plans]
    assert seeds[0] == seeds[1] != seeds[2]


def test_more_shots_than_training_images_are_refused_with_the_number_that_fits():
    with pytest.raises(BenchError, match="at most 7"):
        FEWSHOT.plan(SAMPLES, PlanOptions(shots=8))
    with pytest.raises(BenchError, match="at least 1"):
        FEWSHOT.plan(SAMPLES, PlanOptions(shots=0))


def test_a_set_without_test_images_points_to_folds():
    with pytest.raises(BenchError, match="--folds"):
        LINEAR_PROBE.plan([s for s in SAMPLES if s.split != "test"], PlanOptions())
