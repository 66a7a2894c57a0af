"""Plan the trials of a config: its protocol, the default number of folds, the smoke limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench import registry
from bench.api import Protocol, Sample, Series, Trial
from bench.api.run_config import RunConfig
from bench.board.data_notes import FEWEST_TEST_PATIENTS
from bench.data.find import DatasetHandle
from bench.data.manifest import name_problem
from bench.errors import BenchError

FOLDS = 5


def protocol_of(config: RunConfig) -> Protocol:
    """Return the protocol of a config; raise a BenchError if there is none of that name."""
    protocol = registry.get("protocols", config.protocol)
    if isinstance(protocol, Series):
        raise BenchError(f"{protocol.name!r} is a series of runs, not a protocol of one run.")
    return protocol


def planned(
    config: RunConfig, protocol: Protocol, handle: DatasetHandle, target: DatasetHandle
) -> tuple[RunConfig, list[Trial]]:
    """Return the config with its number of folds, and its trials.

    A config without `folds` takes `default_folds`, or the official split if the protocol ignores
    folds or another data set is scored.

    Raises:
        BenchError: the config does not fit the data, or a name in the data is invalid.
    """
    for sample in [*handle.samples, *target.samples]:
        for column in ("id", "patient", "organ"):
            if reason := name_problem(column, getattr(sample, column)):
                raise BenchError(f"{reason}; rename it.")
    if config.folds and config.target_dataset is not None:
        raise BenchError(
            "--target-dataset trains on the official training split: leave --folds out."
        )
    folds = config.folds
    if folds is None:
        folds = 0 if config.target_dataset is not None else default_folds(handle.samples)
    trials = protocol.plan(handle.samples, replace(config.plan, folds=folds))
    if folds and not any("fold" in trial.tags for trial in trials):
        if config.folds is not None:
            raise BenchError(f"the protocol {protocol.name!r} plans no folds: leave --folds out.")
        folds, trials = 0, protocol.plan(handle.samples, replace(config.plan, folds=0))
    config = replace(config, folds=folds)
    return config, _limited(_scored_on_target(trials, config, target), config, protocol)


def default_folds(samples: Sequence[Sample]) -> int:
    """Return the default number of folds; 0 is the official split.

    It is 5, or the number of patients if there are fewer, for data without training images or with
    fewer than 10 patients in the test split. Data of one patient cannot be split into folds.
    """
    patients = {sample.patient for sample in samples}
    has_training = any(sample.split == "train" for sample in samples)
    is_official = has_training and test_patients(samples) >= FEWEST_TEST_PATIENTS
    return 0 if is_official or len(patients) < 2 else min(FOLDS, len(patients))


def test_patients(samples: Sequence[Sample]) -> int:
    """Return the number of patients in the official test split."""
    return len({sample.patient for sample in samples if sample.split == "test"})


def _scored_on_target(
    trials: Sequence[Trial], config: RunConfig, target: DatasetHandle
) -> list[Trial]:
    """Replace the test images by those of the target, if the config has one."""
    if config.target_dataset is None:
        return list(trials)
    test = tuple(sample.id for sample in target.samples if sample.split == "test")
    if not test:
        raise BenchError(f"{config.target_dataset!r} has no test images to score.")
    return [replace(trial, test=test) for trial in trials]


def _limited(trials: Sequence[Trial], config: RunConfig, protocol: Protocol) -> list[Trial]:
    """Limit each trial to its first images for a smoke run, but never cut a support set."""
    if config.limit is None:
        return list(trials)
    trained = max(config.limit, config.plan.shots if "shots" in protocol.options else 0)
    return [
        replace(trial, train=trial.train[:trained], test=trial.test[: config.limit])
        for trial in trials
    ]
