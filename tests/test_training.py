"""Recipes: optimisers, schedules, batches; and what a run does for an extractor that trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import (
    Backbone,
    FeatureExtractor,
    Head,
    HeadPlugin,
    Labelled,
    Recipe,
    Sample,
    Weights,
)
from bench.api.run_config import RunConfig
from bench.board.scores import scores_of_images
from bench.data.folder import write
from bench.errors import BenchError
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.runs import trials
from bench.runs.execute import Paths, execute
from bench.runs.resolve import resolve
from bench.runs.trials import TrialRunner
from bench.store.results import Store
from bench.training import fit as training_fit
from bench.training.optim import optimiser, schedule
from bench.training.predict import FLIPS, Predictor


class Two(FeatureExtractor):
    """Two convolutions: a frozen one where asked, then one that trains."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (4,), (2,)

    def __init__(self, frozen_first: bool = True, frozen_second: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 3, padding=1)
        self.first.requires_grad_(not frozen_first)
        self.second.requires_grad_(not frozen_second)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.second(self.first(images).relu())]

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        return [list(self.first.parameters()), list(self.second.parameters())]


class OwnSide(Two):
    """A backbone that is built for one side of the input."""

    def __init__(self, *, input_px: int = 8) -> None:
        super().__init__()
        self.facts = {"built_for": input_px}


OWN = Recipe(epochs=2, lr=0.01, optimiser="sgd", schedule="poly", mirror=True, batch_size=2)


def _constant() -> FeatureExtractor:
    return Two(frozen_second=True)


@pytest.fixture(autouse=True)
def backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict(registry.catalogue("backbones").found)
    for name, build in (("two", Two), ("two-sized", OwnSide), ("two-frozen", _constant)):
        record = Backbone(
            name, build, Weights(needed=False), recipe=OWN, default_head="linear", input_px=None
        )
        found[name] = [registry.LoadedPlugin(record, "tests")]
    monkeypatch.setattr(registry.catalogue("backbones"), "found", found)


@pytest.fixture
def dots(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    samples = []
    for number in range(6):
        instances = np.zeros((16, 16), np.int32)
        instances[4:9, 3:12] = 1
        image = np.where(instances[..., None] > 0, 60, 200) + generator.integers(0, 20, (16, 16, 3))
        split = "train" if number < 3 else "test"
        samples.append(
            Labelled(f"i{number}", image.astype(np.uint8), instances, split, f"p{number}")
        )
    write(samples, tmp_path / "dots", about="dots")
    return tmp_path / "dots"


def _request(folder: Path, **changes: Any) -> RunConfig:
    request = RunConfig(
        backbone="two",
        dataset=str(folder),
        protocol="full",
        folds=0,
        view="whole",
        input_px=16,
        recipe="paper",
    )
    return dataclasses.replace(request, **changes)


def _silent(*_: object) -> None: ...


# ---- schedules -------------------------------------------------------------------------------


def test_cosine_and_poly_have_the_published_values() -> None:
    cosine, poly = schedule(Recipe(), 10), schedule(Recipe(schedule="poly", power=0.9), 10)
    for step in range(10):
        assert cosine(step) == pytest.approx((1 + math.cos(math.pi * step / 10)) / 2)
        assert poly(step) == pytest.approx((1 - step / 10) ** 0.9)
    assert cosine(10) == pytest.approx(0)


def test_a_warm_up_rises_in_a_straight_line_and_takes_a_tenth_at_most() -> None:
    flat = Recipe(schedule="poly", power=0.0, warmup_steps=1500)
    assert [schedule(flat, 50)(step) for step in range(7)] == [0.2, 0.4, 0.6, 0.8, 1, 1, 1]
    assert schedule(flat, 100_000)(749) == pytest.approx(0.5)
    assert schedule(flat, 5)(0) == 1  # too short for any


def test_an_unknown_word_in_a_recipe_is_named() -> None:
    with pytest.raises(BenchError, match="'step' is not one of cosine, poly"):
        schedule(Recipe(schedule="step"), 3)
    with pytest.raises(BenchError, match="'lion' is not one of adamw, sgd"):
        optimiser(_linear(), Two(), Recipe(optimiser="lion"))


# ---- optimisers ------------------------------------------------------------------------------


def _linear() -> Head:
    return registry.get("heads", "linear").build((4,), (2,), 2)


def test_sgd_takes_the_recipes_momentum_and_decay() -> None:
    recipe = Recipe(lr=0.1, optimiser="sgd", momentum=0.99, nesterov=True, weight_decay=3e-5)
    made = optimiser(_linear(), Two(), recipe)
    assert isinstance(made, torch.optim.SGD)
    group = made.param_groups[0]
    told = [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")]
    assert told == [0.1, 0.99, True, 3e-5]
    assert len(group["params"]) == 4  # of the second convolution and the head: what trains


def test_adamw_takes_the_recipes_decay() -> None:
    made = optimiser(_linear(), Two(), Recipe(lr=0.1, weight_decay=0.5))
    assert isinstance(made, torch.optim.AdamW)
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.1, 0.5)]


def test_layer_decay_slows_early_layers_and_spares_vectors() -> None:
    recipe = Recipe(lr=0.1, weight_decay=0.5, layer_decay=0.9)
    extractor, head = Two(frozen_first=False), _linear()
    rates = {}
    for group in optimiser(head, extractor, recipe).param_groups:
        for weight in group["params"]:
            rates[weight] = (group["lr"], group["weight_decay"])
    assert len(rates) == 6
    assert rates[extractor.first.weight] == (pytest.approx(0.09), 0.5)
    assert rates[extractor.first.bias] == (pytest.approx(0.09), 0.0)  # type: ignore[index]
    assert rates[extractor.second.weight] == (0.1, 0.5)
    assert {rates[each] for each in head.parameters()} == {(0.1, 0.5), (0.1, 0.0)}


def test_a_gradient_is_clipped_to_the_recipes_norm(
    dots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda weights, most: norms.append(most) or clip(weights, most),
    )
    job = resolve(_request(dots, epochs=1), None)
    job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, clip=0.5))
    TrialRunner(job, Store(tmp_path), "x", None).run(None, _silent)
    assert norms == [0.5, 0.5]  # three patches in batches of two


# ---- batches ---------------------------------------------------------------------------------


def _dealt(shows: Sequence[bool], foreground: float, size: int = 3) -> list[list[int]]:
    targets = [torch.full((2, 2), int(each)) for each in shows]
    lesson: Any = SimpleNamespace(patches=[("i", n) for n in range(len(shows))], targets=targets)
    recipe = Recipe(batch_size=size, foreground=foreground)
    return list(training_fit._batches(lesson, recipe, torch.Generator().manual_seed(0)))


def test_every_patch_is_dealt_once_without_a_wish_for_foreground() -> None:
    batches = _dealt([False] * 7, 0.0)
    assert sorted(number for batch in batches for number in batch) == list(range(7))
    assert list(map(len, batches)) == [3, 3, 1]


def test_a_third_of_each_batch_shows_a_nucleus_where_any_patch_does() -> None:
    shows = [True] + [False] * 11
    for batch in _dealt(shows, 1 / 3):
        assert sum(shows[number] for number in batch) >= 1
    assert sorted(n for batch in _dealt([False] * 6, 1 / 3) for n in batch) == list(range(6))
    rich = [True] * 12
    assert sorted(n for batch in _dealt(rich, 1.0) for n in batch) == list(range(12))


# ---- runs of an extractor that trains --------------------------------------------------------


def _decay(steps: int, half_life: float, low: float = 0.2) -> list[float]:
    return [low + 0.5 ** (step / half_life) for step in range(steps)]


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        (_decay(200, 20), True),
        (_decay(200, 100), False),
        (_decay(200, 20, low=0.0), True),  # it still halves, of a thousandth of the first loss
        ([1.0 - 0.001 * step for step in range(200)], False),
        ([0.5] * 200, True),
        ([0.5 + 0.01 * step for step in range(200)], True),
        (_decay(9, 0.1), False),  # too short to decide
    ],
)
def test_a_training_has_converged_if_its_loss_no_longer_falls(
    losses: list[float], converged: bool
) -> None:
    assert training_fit.has_converged(losses) == converged


def test_the_recipe_is_the_backbones_own_with_the_changes_that_were_asked_for(dots: Path) -> None:
    job = resolve(_request(dots, epochs=3), None)
    assert job.recipe == dataclasses.replace(OWN, epochs=3)
    assert job.spec.recipe == job.recipe


def test_a_record_names_what_is_unlike_the_backbones_recipe(dots: Path, tmp_path: Path) -> None:
    request = _request(dots, epochs=1, lr=OWN.lr)
    record = execute(request, Paths(tmp_path), _silent).record
    assert record.facts["asked_recipe"] == {"epochs": 1}


def test_each_trial_begins_anew_from_its_own_seed_and_what_is_frozen_stays(
    dots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = resolve(_request(dots, protocol="fewshot", shots=1, draws=3), None)
    job.runner.load()
    extractor = job.runner.extractor
    assert isinstance(extractor, Two)
    starts: list[tuple[Tensor, Tensor]] = []

    def noting(*arguments: Any) -> training_fit.Fitted:
        starts.append((extractor.first.weight.clone(), extractor.second.weight.clone()))
        return fit(*arguments)

    fit = trials.fit
    monkeypatch.setattr(trials, "fit", noting)
    TrialRunner(job, Store(tmp_path / "a"), "x", None).run(None, _silent)
    TrialRunner(job, Store(tmp_path / "b"), "x", None).run(None, _silent)
    first, second = zip(*starts, strict=True)
    assert all(torch.equal(first[0], each) for each in first)
    assert not torch.equal(second[0], second[1])
    assert all(torch.equal(one, other) for one, other in zip(second[:3], second[3:], strict=True))


def test_a_linear_probe_of_what_trains_is_refused(dots: Path) -> None:
    with pytest.raises(BenchError, match="two trains its own: use --protocol full"):
        resolve(_request(dots, protocol="linear-probe"), None)
    resolve(_request(dots, protocol="linear-probe", backbone="two-frozen"), None)


def test_a_backbone_that_is_built_for_a_side_gets_that_of_the_input(dots: Path) -> None:
    job = resolve(_request(dots, backbone="two-sized", input_px=12), None)
    assert job.runner.extractor.facts == {"built_for": 12}
    job = resolve(_request(dots, backbone="two-sized", input_px=None), None)
    assert job.runner.extractor.facts == {"built_for": 512}
    with pytest.raises(BenchError, match="use --input-px"):
        resolve(_request(dots, backbone="two-sized", option={"input_px": "12"}), None)


class Constant(Head):
    """Say nucleus everywhere; there is nothing to train."""

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(len(maps[0]), 2, *size)


def test_nothing_is_trained_where_nothing_can_be(
    dots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HeadPlugin("constant", lambda *_: Constant())
    monkeypatch.setitem(
        registry.catalogue("heads").found, "constant", [registry.LoadedPlugin(head, "tests")]
    )
    request = _request(dots, backbone="two-frozen", head="constant")
    record = execute(request, Paths(tmp_path), _silent).record
    assert [trial.loss for trial in record.trials] == [None]
    assert scores_of_images(record, "recall").mean() == 1


# ---- mirror images ---------------------------------------------------------------------------


class Corner(FeatureExtractor):
    """The image and how far each pixel is from the left and the top: no mirror image is alike."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (5,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> list[Tensor]:
        rows, columns = torch.meshgrid(*map(torch.arange, images.shape[-2:]), indexing="ij")
        places = torch.stack([rows, columns]).float().expand(len(images), -1, -1, -1)
        return [torch.cat([images * self.gain, places], 1)]


class Mixes(Head):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return self.mix(maps[0])


def _sample(image: np.ndarray) -> Sample:
    empty = np.zeros(image.shape[:2], np.int32)
    return Sample("i", "test", "p", "", None, "0" * 64, lambda: (image, empty))


def _segmenter(image: np.ndarray, mirror: bool) -> Predictor:
    runner = ExtractorRunner(Corner(), View("whole", 8), torch.device("cpu"))
    torch.manual_seed(0)
    return Predictor(Mixes().eval(), FeatureBank(runner, [_sample(image)], None), mirror=mirror)


def _mirrored(draw: Callable[[], np.ndarray]) -> Tensor:
    return _segmenter(draw(), mirror=True)._patch_logits(("i", 0))


def test_a_mask_is_where_the_foreground_is_more_probable_than_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    segmenter = _segmenter(image, mirror=True)
    margin = segmenter._logits([("i", 0)], (12, 20)).diff(dim=0)
    bias = segmenter.head.get_parameter("mix.bias")
    with torch.no_grad():
        bias[1] -= margin.median()  # half of the image is foreground
    found = segmenter("i", (12, 20))
    assert (found.mask.shape, found.mask.dtype) == ((12, 20), bool)
    assert (found.probability.shape, found.probability.dtype) == ((12, 20), np.float32)
    assert np.array_equal(found.mask, found.probability > 0.5)
    assert 0 < found.mask.mean() < 1
    margin = segmenter._logits([("i", 0)], (12, 20)).double().diff(dim=0)[0]
    np.testing.assert_allclose(found.probability, margin.sigmoid(), rtol=1e-5)


def test_logits_over_mirror_images_turn_with_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    plain = _mirrored(lambda: image)
    assert torch.allclose(_mirrored(lambda: image[:, ::-1]), plain.flip(3), atol=1e-4)
    assert torch.allclose(_mirrored(lambda: image[::-1, ::-1]), plain.flip(2, 3), atol=1e-4)
    assert len(FLIPS) == 4
