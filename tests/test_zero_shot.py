"""Zero-shot protocol: plans without training, the logits head, and constant predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_run
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, PlanOptions, Sample, Weights
from bench.api.nn import FeatureExtractor
from bench.api.record import Record
from bench.api.run_config import RunConfig
from bench.backbones._controls import ConstantExtractor
from bench.board.scores import scores_of_images
from bench.errors import BenchError
from bench.protocols.full import FULL
from bench.protocols.zero_shot import ZERO_SHOT
from bench.runs.execute import Paths, execute
from bench.store.results import Store

OTHER_MAPS = [((384,), (14,)), ((3,), (1,)), ((2, 2), (1, 4)), ((1,), (1,))]


def _sample(name: str, split: str, patient: str) -> Sample:
    empty = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    return Sample(name, split, patient, "", None, name, lambda: empty)


SPLITS = ["train"] * 3 + ["val"] + ["test"] * 3
SAMPLES = [_sample(f"p{p}_{i}", SPLITS[p], f"p{p}") for p in range(7) for i in range(2)]


# ---- the plan --------------------------------------------------------------------------------


def test_folds_are_those_of_the_protocols_that_train() -> None:
    trials = ZERO_SHOT.plan(SAMPLES, PlanOptions(folds=3))
    trained = FULL.plan(SAMPLES, PlanOptions(folds=3))
    scored = [image for trial in trials for image in trial.test]
    assert sorted(scored) == sorted(sample.id for sample in SAMPLES)
    assert [(each.tags, each.test) for each in trials] == [(t.tags, t.test) for t in trained]
    assert all(trial.train == () for trial in trials)


def test_the_test_split_is_scored_without_training() -> None:
    tests = [sample for sample in SAMPLES if sample.split == "test"]
    for samples in (SAMPLES, tests):  # a data set of test images alone is sufficient
        (trial,) = ZERO_SHOT.plan(samples, PlanOptions())
        assert trial.train == ()
        assert trial.test == tuple(sample.id for sample in tests)
    with pytest.raises(BenchError, match="0 training"):
        FULL.plan(tests, PlanOptions())
    training = [sample for sample in SAMPLES if sample.split == "train"]
    with pytest.raises(BenchError, match=r"none of the 6 images.*--folds K"):
        ZERO_SHOT.plan(training, PlanOptions())
    assert len(ZERO_SHOT.plan(training, PlanOptions(folds=3))) == 3


# ---- the head --------------------------------------------------------------------------------


def test_logits_of_the_requested_size_are_returned_unchanged() -> None:
    head = registry.get("heads", "logits").build((2,), (1,), 2)
    logits = torch.randn(3, 2, 7, 9)
    assert torch.equal(head([logits], (7, 9)), logits)
    assert head([logits], (20, 11)).shape == (3, 2, 20, 11)
    assert list(head.parameters()) == []


def test_logits_are_resized_bilinearly() -> None:
    head = registry.get("heads", "logits").build((2,), (4,), 2)
    ramp = torch.arange(4.0).expand(1, 2, 4, 4)
    resized = head([ramp], (8, 8))[0, 0, 0]
    expected = [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    assert resized.tolist() == pytest.approx(expected)


def test_maps_that_are_not_logits_are_refused() -> None:
    for channels, strides in OTHER_MAPS:
        with pytest.raises(
            BenchError, match=r"the head 'logits' needs.*--protocol full.*zero-shot"
        ):
            registry.get("heads", "logits").build(channels, strides, 2)


# ---- runs ------------------------------------------------------------------------------------


def test_a_constant_extractor_gives_the_same_class_to_every_pixel() -> None:
    for label in (0, 1):
        (logits,) = ConstantExtractor(label)(torch.rand(2, 3, 5, 8))
        assert torch.equal(logits.argmax(1), torch.full((2, 5, 8), label))


def _run(home: Path, **changes: object) -> Record:
    request = RunConfig(dataset="synthetic", protocol="zero-shot", folds=0, limit=3)
    request = dataclasses.replace(request, **changes)
    return execute(request, Paths(home / "results", cache=home / "cache"), lambda *_: None).record


def test_constant_predictions_have_their_known_scores(tmp_path: Path) -> None:
    background = _run(tmp_path, backbone="all-background")
    assert (scores_of_images(background, "dice") == 0).all()
    foreground = _run(tmp_path, backbone="all-foreground")
    assert (scores_of_images(foreground, "recall") == 1).all()
    samples = {sample.id: sample for sample in registry.get("datasets", "synthetic").generate()}
    shares = [np.mean(samples[name].read()[1] > 0) for name in foreground.images]
    assert scores_of_images(foreground, "precision")[0] == pytest.approx(shares)
    (trial,) = foreground.trials
    assert (trial.train, trial.loss, len(trial.images)) == ((), None, 3)
    facts = foreground.facts
    assert (facts["backbone_parameters"], facts["head_parameters"]) == (0, 0)
    assert foreground.flags == ("smoke",)
    assert foreground in list(Store(tmp_path / "results").records())


def test_a_constant_prediction_runs_under_a_protocol_that_trains(tmp_path: Path) -> None:
    changes = {"protocol": "fewshot", "shots": 2, "draws": 2, "head": None}
    record = tiny_run(tmp_path, backbone="all-foreground", **changes)
    assert all(trial.train and trial.loss is None for trial in record.trials)
    assert (scores_of_images(record, "recall") == 1).all()


class Untrained(FeatureExtractor):
    """Logits from untrained weights."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (2,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.classify(images)]  # [(N, 2, H, W)]


def test_unsuitable_backbones_and_heads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Backbone("untrained", Untrained, weights=Weights(needed=False), input_px=32)
    backbones = registry.catalogue("backbones").found
    monkeypatch.setitem(backbones, "untrained", [registry.LoadedPlugin(record, "this test")])
    for changes, problem in (
        ({"backbone": "untrained"}, "use --protocol full or fewshot"),
        ({"backbone": "rgb"}, r"the head 'logits' needs.*--protocol full"),
        ({"backbone": "all-background", "head": "linear"}, "prescribes the head 'logits'"),
    ):
        with pytest.raises(BenchError, match=problem):
            _run(tmp_path, **changes)
