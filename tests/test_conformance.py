"""Registered plug-ins pass the checks of `bench.testing`; the checks find invalid plug-ins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import (
    Backbone,
    BackboneFamily,
    Dataset,
    FeatureExtractor,
    Head,
    HeadPlugin,
    Prediction,
    Sample,
)
from bench.errors import BenchError
from bench.testing import check_backbone, check_dataset, check_head

SMALL_BACKBONES = ("rgb", "cmd-tiny", "all-background")
SLOW_HEADS = ("upernet", "decoder", "decoder-cup")


def named(kind: str) -> list[str]:
    return [name for name in registry.names(kind) if not name.endswith(":")]


# ---- what is registered ----------------------------------------------------------------------


def test_every_plugin_loads_and_has_a_name_a_title_and_a_license() -> None:
    assert [entry for entry in registry.broken() if entry.origin.startswith("bench.")] == []
    for kind in registry.KINDS:
        for name in registry.names(kind):
            record = registry.catalogue(kind).found[name][0].record
            assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]*:?", name)
            assert 10 <= len(record.title) <= 100, name
            assert not record.title.endswith("."), name
            if kind in ("backbones", "datasets") and not isinstance(record, BackboneFamily):
                assert record.license != "unknown", name


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW_HEADS else []) for n in named("heads")],
)
def test_a_head_passes_the_checks(name: str) -> None:
    assert check_head(name) == []


@pytest.mark.parametrize("name", SMALL_BACKBONES)
def test_a_small_backbone_passes_the_checks(name: str) -> None:
    assert check_backbone(name, sizes=[(32, 32), (32, 64)]) == []


def test_backbones_describe_themselves_on_the_meta_device() -> None:
    """Networks of timm are described in test_foundation_models.py."""
    for name in named("backbones"):
        record: Backbone = registry.get("backbones", name)
        assert record.default_head in registry.names("heads"), name
        if hasattr(record.build, "__self__"):
            continue
        with torch.device("meta"):
            try:
                extractor = record.build()
            except BenchError as error:
                if "pip install" not in str(error):
                    raise
                continue  # it needs a library that is not installed
        assert isinstance(extractor, FeatureExtractor), name
        assert len(extractor.channels) == len(extractor.strides) > 0, name
        assert list(extractor.strides) == sorted(extractor.strides), name
        assert min(extractor.std) > 0, name
        assert all(parameter.is_meta for parameter in extractor.parameters()), name


def test_data_sets_have_input_sizes_and_pass_the_checks() -> None:
    for name in registry.names("datasets"):
        record: Dataset = registry.get("datasets", name)
        assert 0 in record.input_px, name
        assert all(side % stride == 0 for stride, side in record.input_px.items() if stride), name
        if record.generate is not None:
            assert check_dataset(name) == []
        else:
            assert record.homepage, name


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_a_metric_is_finite_on_empty_and_full_masks(name: str) -> None:
    metric = registry.get("metrics", name)
    masks = [np.zeros((16, 24), bool), np.ones((16, 24), bool), np.eye(16, 24, dtype=bool)]
    rows = [
        metric.count(Prediction(predicted, predicted.astype(np.float32)), true.astype(np.int32))
        for predicted in masks
        for true in masks
    ]
    counts = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    assert metric.lower_is_better <= metric.scores.keys()
    for score_name, score in metric.scores.items():
        values = score(counts)
        assert values.shape == (9,)
        assert np.isfinite(values).all()
        perfect = 0 if score_name in metric.lower_is_better else 1
        assert values[[0, 4, 8]] == pytest.approx(perfect)  # the prediction is the truth
    for defined in metric.defined.values():
        assert defined(counts).dtype == bool


# ---- backbones -------------------------------------------------------------------------------


class Pooled(FeatureExtractor):
    """A valid extractor: colours averaged over 4 x 4 pixels, then mixed."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self, before: Callable[..., Any] = lambda images: images,
        after: Callable[..., Any] = lambda maps: maps, **attributes: object,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels, self.strides = (5,), (4,)
        self.before, self.after = before, after
        self.mix = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = nn.functional.avg_pool2d(self.before(images), 4)
        return self.after([self.norm(self.mix(pooled))])


class ChangesItself(Pooled):
    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            self.norm.running_mean += 1e-7  # type: ignore[operator]
        return super().forward(images)


class WithoutAttributes(FeatureExtractor):
    """An extractor that does not define its mean, strides or channels."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def fail(*_: object) -> Any:
    raise RuntimeError("no kernel for this")


def squared(maps: list[Tensor]) -> list[Tensor]:
    return [nn.functional.interpolate(maps[0], (maps[0].shape[-1],) * 2)]


def test_a_valid_backbone_has_no_problems() -> None:
    assert check_backbone(Pooled()) == []
    assert check_backbone(Pooled().requires_grad_(False)) == []
    assert check_backbone(Backbone("pooled", Pooled), sizes=[(8, 12)]) == []


@pytest.mark.parametrize(
    ("extractor", "problem"),
    [
        (Pooled(strides=(8,)), r"map 0 should be \(2, 5, 8, 8\), but is \(2, 5, 16, 16\)"),
        (Pooled(channels=(5, 5), strides=(8, 4)), r"strides should ascend .*, but are \(8, 4\)"),
        (Pooled(std=(0.2, 0.2, 0.0)), "std should be positive"),
        (WithoutAttributes(), "strides should be positive integers"),
        (WithoutAttributes(), "mean should be three numbers, for R, G and B"),
        (Pooled(fail), "RuntimeError: no kernel for this"),
        (Pooled(after=tuple), "should return a list of 1 maps, not a tuple of 1"),
        (Pooled(after=squared), "images of 32 x 64 px: map 0 should be"),
        (
            Pooled(lambda x: x / x.std((1, 2, 3), keepdim=True)),
            "a constant image of 0.5 contains NaN",
        ),
        (Pooled(lambda x: x - x.mean(0)), "map 0 of image 1 differs by"),
        (Pooled(lambda x: x + torch.rand_like(x)), "differs between two runs"),
        (Pooled(lambda x: x.sub_(0.5)), "changed its input"),
        (Pooled(after=lambda maps: [maps[0].detach()]), "no map has a gradient"),
        (ChangesItself(), "changed the weights or buffers"),
    ],
)
@pytest.mark.fault(26)
def test_the_problem_of_an_invalid_backbone_is_reported(
    extractor: FeatureExtractor, problem: str
) -> None:
    assert re.search(problem, "\n".join(check_backbone(extractor)))


def ignores_meta() -> FeatureExtractor:
    with torch.device("cpu"):
        return Pooled()


@pytest.mark.fault(26)
def test_the_problem_of_an_invalid_build_is_reported() -> None:
    for build, problem in (
        (fail, "build() failed: RuntimeError: no kernel for this"),
        (nn.Identity, "should return a FeatureExtractor, not Identity"),
        (ignores_meta, "built on the meta device, it has parameters on cpu"),
    ):
        assert problem in "\n".join(check_backbone(Backbone("wrong", build)))  # type: ignore[arg-type]


# ---- heads -----------------------------------------------------------------------------------


class Averages(Head):
    """A valid head: one weight per map and class, on the mean over channels."""

    fewest_maps, error = 1, BenchError("needs more maps")

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        if len(channels) < self.fewest_maps:
            raise self.error
        self.weight = nn.Parameter(torch.ones(len(channels), classes))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        resized = [nn.functional.interpolate(m.mean(1, keepdim=True), size) for m in maps]
        return torch.einsum("mnhw,mk->nkhw", torch.cat(resized, 1).transpose(0, 1), self.weight)


def averages(**attributes: object) -> type[Averages]:
    """Return the valid head with other attributes or methods."""
    return type("Changed", (Averages,), attributes)


class Weightless(Averages):
    """A valid head without parameters."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        Head.__init__(self)
        self.weight = torch.ones(len(channels), classes)  # type: ignore[assignment]


class UnusedWeight(Averages):
    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__(channels, strides, classes)
        self.spare = nn.Linear(3, 3)


def at_the_size_of_the_map(head: Head, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    return Averages.forward(head, maps, (maps[0].shape[-2], maps[0].shape[-1]))  # type: ignore[arg-type]


def minus_the_batch_mean(head: Head, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    logits = Averages.forward(head, maps, size)  # type: ignore[arg-type]
    return logits - logits.mean()


def test_a_valid_head_has_no_problems() -> None:
    for build in (Averages, averages(fewest_maps=2), Weightless):
        assert check_head(HeadPlugin("valid", build)) == []


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (
            averages(forward=at_the_size_of_the_map),
            r"strides \(16,\): logits should be \(2, 2, 16, 32\), but are",
        ),
        (averages(forward=minus_the_batch_mean), "between an image and a batch"),
        (UnusedWeight, "the weight spare.weight has no finite gradient"),
        (
            averages(decode=lambda self, logits: logits.softmax(1)[:, 1]),
            r"decode\(\) should return int64 \(2, 16, 32\), not torch.float32",
        ),
        (averages(fewest_maps=99), "rejects all maps: needs more maps"),
        (
            averages(fewest_maps=2, error=IndexError("no second map")),
            r"strides \(16,\): the check of logits failed: IndexError: no second map",
        ),
        (lambda *maps: nn.Identity(), "should return a Head, not Identity"),
    ],
)
@pytest.mark.fault(26)
def test_the_problem_of_an_invalid_head_is_reported(build: Any, problem: str) -> None:
    assert re.search(problem, "\n".join(check_head(HeadPlugin("wrong", build))))


# ---- data sets -------------------------------------------------------------------------------


def sample(number: int, split: str) -> Sample:
    image = np.full((8, 12, 3), number, np.uint8)
    instances = np.zeros((8, 12), np.int32)
    return Sample(
        id=f"image{number}",
        split=split,
        patient=f"patient{number}",
        organ="",
        mpp=0.25,
        fingerprint=f"{number:064x}",
        read=lambda: (image.copy(), instances.copy()),
    )


GOOD = (sample(0, "train"), sample(1, "train"), sample(2, "test"))


def reading(image: Any, instances: Any) -> list[Sample]:
    return [replace(GOOD[0], read=lambda: (image, instances)), *GOOD[1:]]


def forgetful() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng().integers(0, 256, (8, 12, 3), np.uint8), GOOD[0].read()[1]


def test_a_valid_data_set_has_no_problems() -> None:
    assert check_dataset(GOOD) == []
    assert check_dataset(Dataset("good", generate=lambda: list(GOOD))) == []
    assert "pass its samples" in check_dataset(Dataset("elsewhere"))[0]


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([*GOOD, replace(GOOD[0])], "2 images have the id 'image0'"),
        ([*GOOD, sample(3, "valid")], "must be train, val or test, not 'valid'"),
        ([*GOOD, replace(sample(3, "test"), patient="\x1b[31m")], "not printable text"),
        (GOOD[:2], "no image is in the split 'test'"),
        ([], "no image is in the split 'train'"),
        (
            [*GOOD, replace(sample(3, "test"), patient="patient0")],
            "'patient0' is in test and train",
        ),
        ([*GOOD, replace(sample(3, "test"), fingerprint=f"{0:064x}")], "same image is in"),
        (
            reading(GOOD[0].read()[0] / 255, GOOD[0].read()[1]),
            r"uint8, but is float64 \(8, 12, 3\)",
        ),
        (reading(GOOD[0].read()[0], np.zeros((8, 12), np.uint16)), "instances should be int32"),
        (reading(GOOD[0].read()[0], np.zeros((12, 8), np.int32)), r"are int32 \(12, 8\)"),
        (reading(GOOD[0].read()[0], np.full((8, 12), -1, np.int32)), "not be negative"),
        (
            [replace(GOOD[0], mpp=40.0), *GOOD[1:]],
            r"mpp \(micrometres per pixel\) should be in .* not 40.0",
        ),
        (
            [replace(GOOD[0], fingerprint="x"), *GOOD[1:]],
            "the fingerprint should be a sha256 in hex",
        ),
        ([replace(GOOD[0], read=forgetful), *GOOD[1:]], "reading it twice gives different values"),
        ([replace(GOOD[0], read=lambda: 1 / 0), *GOOD[1:]], "ZeroDivisionError"),
    ],
)
@pytest.mark.fault(26)
def test_the_problem_of_an_invalid_data_set_is_reported(
    samples: Sequence[Sample], problem: str
) -> None:
    assert re.search(problem, "\n".join(check_dataset(samples)))
