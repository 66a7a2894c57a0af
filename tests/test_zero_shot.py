"""Zero-shot: plans without training, the backbone's own logits, and the constant answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, Labelled, PlanOptions, Sample, Weights
from bench.api.config import RunConfig
from bench.api.nn import FeatureExtractor
from bench.api.record import Record
from bench.backbones._controls import ConstantExtractor
from bench.board.scores import scores_of_images
from bench.data.folder import write
from bench.errors import BenchError
from bench.protocols.full import FULL
from bench.protocols.zero_shot import ZERO_SHOT
from bench.runs.execute import Paths, execute
from bench.store.results import Store

MAPS_OF_OTHERS = [((384,), (14,)), ((3,), (1,)), ((2, 2), (1, 4)), ((1,), (1,))]


def _sample(name: str, split: str, patient: str) -> Sample:
    empty = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    return Sample(name, split, patient, "", None, name, lambda: empty)


SPLITS = ["train"] * 3 + ["val"] + ["test"] * 3
SAMPLES = [_sample(f"p{p}_{i}", SPLITS[p], f"p{p}") for p in range(7) for i in range(2)]


# ---- the plan --------------------------------------------------------------------------------


def test_nothing_is_trained_and_the_test_split_is_scored() -> None:
    (trial,) = ZERO_SHOT.plan(SAMPLES, PlanOptions())
    assert trial.train == ()
    assert set(trial.test) == {sample.id for sample in SAMPLES if sample.split == "test"}


def test_folds_score_every_image_once_and_are_those_of_the_protocols_that_train() -> None:
    trials = ZERO_SHOT.plan(SAMPLES, PlanOptions(folds=3))
    trained = FULL.plan(SAMPLES, PlanOptions(folds=3))
    scored = [image for trial in trials for image in trial.test]
    assert sorted(scored) == sorted(sample.id for sample in SAMPLES)
    assert [(each.tags, each.test) for each in trials] == [(t.tags, t.test) for t in trained]
    assert all(trial.train == () for trial in trials)


def test_a_set_of_test_images_alone_is_enough() -> None:
    tests = [sample for sample in SAMPLES if sample.split == "test"]
    (trial,) = ZERO_SHOT.plan(tests, PlanOptions())
    assert trial.test == tuple(sample.id for sample in tests)
    with pytest.raises(BenchError, match="0 training"):
        FULL.plan(tests, PlanOptions())


def test_a_set_without_test_images_is_refused_and_points_to_folds() -> None:
    training = [sample for sample in SAMPLES if sample.split == "train"]
    with pytest.raises(BenchError, match=r"none of the 6 images.*--folds K"):
        ZERO_SHOT.plan(training, PlanOptions())
    assert len(ZERO_SHOT.plan(training, PlanOptions(folds=3))) == 3


# ---- the head --------------------------------------------------------------------------------


def test_logits_of_the_size_asked_for_come_back_as_they_are() -> None:
    head = registry.get("heads", "logits").build((2,), (1,), 2)
    logits = torch.randn(3, 2, 7, 9)
    assert torch.equal(head([logits], (7, 9)), logits)
    assert head([logits], (20, 11)).shape == (3, 2, 20, 11)
    assert list(head.parameters()) == []


def test_resizing_keeps_the_mean_of_each_block() -> None:
    head = registry.get("heads", "logits").build((2,), (4,), 2)
    ramp = torch.arange(4.0).expand(1, 2, 4, 4)
    resized = head([ramp], (8, 8))[0, 0, 0]
    by_hand = [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    assert resized.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize(("channels", "strides"), MAPS_OF_OTHERS)
def test_maps_that_are_no_logits_are_refused(
    channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(
        BenchError,
        match=r"the head 'logits' needs.*--protocol full.*zero-shot",
    ):
        registry.get("heads", "logits").build(channels, strides, 2)


# ---- the constant answers --------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_constant_answer_decides_the_same_for_every_pixel(chosen: int) -> None:
    (logits,) = ConstantExtractor(chosen)(torch.rand(2, 3, 5, 8))
    assert torch.equal(logits.argmax(1), torch.full((2, 5, 8), chosen))


def _scores(record: Record, name: str) -> np.ndarray:
    return scores_of_images(record, name)


def _run(home: Path, **asked: object) -> Record:
    request = RunConfig(dataset="synthetic", protocol="zero-shot", limit=3)
    request = dataclasses.replace(request, **asked)
    return execute(request, Paths(home / "results", cache=home / "cache"), lambda *_: None).record


def test_all_background_finds_nothing_and_all_foreground_misses_nothing(tmp_path: Path) -> None:
    nothing = _run(tmp_path, backbone="all-background")
    assert (_scores(nothing, "dice") == 0).all()
    everything = _run(tmp_path, backbone="all-foreground")
    assert (_scores(everything, "recall") == 1).all()
    samples = {sample.id: sample for sample in registry.get("datasets", "synthetic").generate()}
    shares = [np.mean(samples[name].read()[1] > 0) for name in everything.images]
    assert _scores(everything, "precision")[0] == pytest.approx(shares)


@pytest.mark.parametrize("protocol", ["full", "fewshot"])
def test_a_constant_answer_stands_beside_rows_that_were_trained(
    protocol: str, tmp_path: Path
) -> None:
    plan = PlanOptions(shots=2, draws=2)
    record = _run(tmp_path, backbone="all-foreground", protocol=protocol, plan=plan)
    assert all(trial.train and trial.loss is None for trial in record.trials)
    assert (_scores(record, "recall") == 1).all()


def test_a_zero_shot_record_says_that_nothing_was_trained_and_is_found_again(
    tmp_path: Path,
) -> None:
    record = _run(tmp_path, backbone="all-foreground")
    (trial,) = record.trials
    assert (trial.train, trial.loss, len(trial.images)) == ((), None, 3)
    facts = record.facts
    assert (facts["backbone_parameters"], facts["head_parameters"]) == (0, 0)
    assert record.flags == ("smoke",)
    assert list(Store(tmp_path / "results").records()) == [record]


def test_a_folder_of_test_images_alone_is_scored_in_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(2):
        instances = np.zeros((20, 24), np.uint16)
        instances[4:12, 6 : 10 + number] = 1
        image = rng.integers(0, 256, (20, 24, 3), np.uint8)
        samples.append(Labelled(f"i{number}", image, instances, "test", f"p{number}"))
    write(samples, tmp_path / "set", about="test images alone")
    record = _run(tmp_path, backbone="all-foreground", dataset=str(tmp_path / "set"))
    assert _scores(record, "precision")[0] == pytest.approx([32 / 480, 40 / 480])


@pytest.mark.parametrize("backbone", ["cmd-tiny", "rgb"])
def test_a_backbone_without_masks_of_its_own_is_refused(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(
        BenchError,
        match=r"the head 'logits' needs.*--protocol full",
    ):
        _run(tmp_path, backbone=backbone)


class Untrained(FeatureExtractor):
    """Logits of its own, from weights that have yet to be trained."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (2,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.classify(images)]  # [(N, 2, H, W)]


def test_a_backbone_that_must_be_trained_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Backbone("untrained", Untrained, weights=Weights(needed=False), input_px=32)
    shelf = registry.catalogue("backbones").found
    monkeypatch.setitem(shelf, "untrained", [registry.Found(record, "this test")])
    with pytest.raises(BenchError, match="use --protocol full or fewshot"):
        _run(tmp_path, backbone="untrained")


def test_another_head_is_refused_under_zero_shot(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="prescribes the head 'logits'"):
        _run(tmp_path, backbone="all-background", head="linear")
