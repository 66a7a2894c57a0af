"""The linear probe: its minimum, what it does not depend on, and what it chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from tiny import FACTS, request, run, squares, tiny_run
from torch import Tensor

from bench import registry
from bench.api import BoardOptions, LinearRecipe, Record, loss_of_margin
from bench.api.record import from_bytes, to_bytes
from bench.api.spec import RunSpec
from bench.board.scores import scores
from bench.errors import BenchError, RunFailed
from bench.heads._linear import LinearHead
from bench.render.runs import run_table
from bench.runs import head_cache
from bench.runs.command import config_of
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.training import pixel_sample, probe
from bench.training.fit import Fitted, TrainingSet

SIDE = 16


def quiet(*_: object) -> None: ...


class Bank:
    """Feature maps of random images: 5 channels at two resolutions, and classes they predict."""

    def __init__(self, images: int, scale: float = 1.0, per_patient: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        self.fine = torch.randn(images, 2, SIDE, SIDE, generator=generator)
        self.coarse = torch.randn(images, 3, SIDE // 4, SIDE // 4, generator=generator)
        noise = torch.randn(images, SIDE, SIDE, generator=generator)
        self.targets = (self.fine[:, 0] - self.fine[:, 1] + noise > 0.8).long()
        self.scale = scale
        self.samples = {
            f"i{n}": SimpleNamespace(patient=f"p{n // per_patient}") for n in range(images)
        }

    def maps(self, patches: list[tuple[str, int]]) -> list[Tensor]:
        numbers = [int(image[1:]) for image, _ in patches]
        return [self.fine[numbers] * self.scale + 7 * (self.scale - 1), self.coarse[numbers]]


def lesson(bank: Bank) -> TrainingSet:
    any_bank: Any = bank
    return TrainingSet(any_bank, [(image, 0) for image in bank.samples], list(bank.targets))


def solved(bank: Bank) -> tuple[LinearHead, Fitted]:
    head = LinearHead([2, 3], 2)
    return head, probe.fit(head, lesson(bank), 0, quiet)


def block(n: int, channels: int, seed: int) -> pixel_sample.Block:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, channels)) @ rng.standard_normal((channels, channels))
    y = (x[:, 0] + rng.standard_normal(n) > 1).astype(float)
    return pixel_sample.Block([pixel_sample.Level(torch.tensor(x).float())], torch.tensor(y), [n])


def test_the_minimum_is_that_of_scipy() -> None:
    parts = [block(300, 6, seed) for seed in (0, 1)]
    x = torch.cat([part.features for part in parts]).double()
    y = torch.cat([part.target for part in parts])

    def loss(values: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        w = torch.tensor(values, requires_grad=True)
        value = loss_of_margin((x @ w[:-1] + w[-1])[None], y[None]) + penalty * (w[:-1] ** 2).sum()
        (gradient,) = torch.autograd.grad(value, w)
        return value.item(), gradient.numpy()

    for minimum, penalty in zip(probe.solve(parts, (0.1, 1e-3), quiet), (0.1, 1e-3), strict=True):
        best = scipy.optimize.minimize(loss, np.zeros(7), (penalty,), "BFGS", jac=True)
        weights = [*minimum.weight.tolist(), minimum.bias.item()]
        np.testing.assert_allclose(weights, best.x, atol=2e-3)
        assert minimum.loss == pytest.approx(best.fun, abs=1e-6)
        assert minimum.gradient < probe.CONVERGED


def test_sampled_features_are_those_of_resized_maps() -> None:
    bank = Bank(1)
    (part,), mean, deviation = pixel_sample.sampled_blocks(lesson(bank), {"i0": 0}, 0)
    maps = [F.interpolate(each, (SIDE, SIDE), mode="bilinear") for each in bank.maps([("i0", 0)])]
    pixels = torch.cat(maps, 1)[0].flatten(1).T  # all of them: a patch has fewer than PIXELS
    np.testing.assert_allclose(part.features * deviation + mean, pixels, atol=1e-5)
    assert part.target.tolist() == bank.targets[0].flatten().tolist()


def test_logits_of_the_head_are_the_margins_of_the_solution() -> None:
    bank = Bank(12)
    head, fitted = solved(bank)
    parts, *_ = pixel_sample.sampled_blocks(lesson(bank), dict.fromkeys(bank.samples, 0), 0)
    penalty, threshold = fitted.training["lambda"], fitted.training["threshold"]
    path = [value for value in probe.LAMBDAS if value >= penalty]
    minimum = probe.solve(parts, path, quiet)[-1]
    expected = parts[0].features.double() @ minimum.weight + minimum.bias
    logits = head(bank.maps([(image, 0) for image in bank.samples]), (SIDE, SIDE))
    margin = (logits[:, 1] - logits[:, 0]).flatten()
    np.testing.assert_allclose(margin.detach(), expected, atol=1e-3)
    nuclei = head.decode(logits).flatten()
    np.testing.assert_array_equal(nuclei, margin.detach().sigmoid() > threshold)


def test_the_scale_and_the_offset_of_features_do_not_matter() -> None:
    plain, scaled = (solved(bank) for bank in (Bank(12), Bank(12, scale=1000.0)))
    for name in ("lambda", "threshold", "cv_dice"):
        values = (fitted.training[name] for _, fitted in (plain, scaled))
        np.testing.assert_allclose(*values, atol=1e-3)
    assert plain[1].loss == pytest.approx(scaled[1].loss, abs=1e-5)


def test_lambda_and_threshold_have_the_best_mean_dice_of_held_out_images() -> None:
    parts = [
        pixel_sample.Block(each.levels, each.target, [100, 200])
        for each in (block(300, 4, seed) for seed in range(3))
    ]
    choice = probe.cross_validate(parts, quiet)
    curve = np.zeros((len(probe.LAMBDAS), len(probe.THRESHOLDS)))
    for held_out in range(3):
        minima = probe.solve([parts[i] for i in range(3) if i != held_out], probe.LAMBDAS, quiet)
        for i, minimum in enumerate(minima):
            p = (parts[held_out].features.double() @ minimum.weight + minimum.bias).sigmoid()
            for j, threshold in enumerate(probe.THRESHOLDS):
                for image in (slice(0, 100), slice(100, 300)):
                    nucleus, true = p[image] > threshold, parts[held_out].target[image]
                    overlap = 2 * (nucleus * true).sum() / (nucleus.sum() + true.sum())
                    curve[i, j] += float(overlap) / 6
    np.testing.assert_allclose(choice.cross_validation["cv_dice"], curve, atol=2e-3)
    i, j = np.unravel_index(np.argmax(choice.cross_validation["cv_dice"]), curve.shape)
    assert (choice.penalty, choice.threshold) == (probe.LAMBDAS[i], probe.THRESHOLDS[j])


@pytest.mark.parametrize(
    ("patients", "folds"),
    [
        ("aabbcd", [0, 0, 1, 1, 2, 2]),  # the images of a patient share a fold
        ("aaabbc", [0, 0, 0, 1, 1, 2]),
        ("aaabbb", [0, 1, 2, 0, 1, 2]),  # too few patients: by image
    ],
)
def test_folds_are_grouped_by_patient(patients: str, folds: list[int]) -> None:
    assert probe.folds_of(patients) == folds


def test_few_images_use_fixed_values() -> None:
    _, few = solved(Bank(probe.FEWEST - 1))
    fixed = probe.FIXED_LAMBDA, probe.FIXED_THRESHOLD
    assert (few.training["lambda"], few.training["threshold"]) == fixed
    assert "folds" not in few.training
    _, enough = solved(Bank(probe.FEWEST))
    assert enough.training["folds"] == probe.FOLDS


def test_a_loss_that_is_not_finite_fails() -> None:
    infinite = pixel_sample.Level(torch.full((4, 2), torch.inf))
    broken = pixel_sample.Block([infinite], torch.tensor([0.0, 1, 0, 1]).double(), [4])
    with pytest.raises(RunFailed, match="not finite"):
        probe.solve([broken], (0.1,), quiet)


# ---- runs ------------------------------------------------------------------------------------


def probed(home: Path, **changes: Any) -> Record:
    """Run the converged probe on 24 images of squares."""
    folder = home / "squares"
    if not folder.exists():
        squares(folder, 24)
    defaults = {"epochs": None, "lr": None, "protocol": "linear-probe", "head": None}
    return run(request(folder, **defaults | changes), home).record


def test_the_record_says_what_was_chosen_and_how_it_converged(tmp_path: Path) -> None:
    record = probed(tmp_path)
    assert record.spec.recipe == LinearRecipe()
    (trial,) = from_bytes(to_bytes(record), "").trials
    training = trial.training
    assert training == record.trials[0].training  # also through JSON
    assert training["converged"] is True
    assert training["gradient"] < probe.CONVERGED
    assert training["iterations"] > 0
    assert np.shape(training["cv_dice"]) == (len(probe.LAMBDAS), len(probe.THRESHOLDS))
    assert np.mean(trial.counts["pixel_average_precision"]) > 0.9  # squares are dark
    assert config_of(record).recipe is None
    (note,) = run_table(record, scores(record, ["dice"], BoardOptions())).notes[1:]
    chosen = f"lambda {training['lambda']:g}, threshold {training['threshold']:g}"
    assert note.startswith(f"linear probe: {chosen}, by cross-validation")


def test_an_unconverged_probe_is_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 1)
    assert "not converged" in probed(tmp_path).flags


def test_the_same_training_is_loaded_with_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = probed(tmp_path)
    monkeypatch.setattr(head_cache, "training_key", lambda *_: next(iter(_keys(tmp_path))))
    monkeypatch.setattr(probe, "fit", lambda *_: pytest.fail("it was trained again"))
    again = probed(tmp_path, seed=1)
    assert again.trials[0].training == first.trials[0].training
    assert again.trials[0].counts == first.trials[0].counts


def _keys(home: Path) -> list[str]:
    return [path.stem for path in (home / "cache" / "heads").glob("*.safetensors")]


@pytest.mark.parametrize(
    ("changes", "name", "min_steps"),
    [
        ({}, "converged", None),
        ({"recipe": "default"}, "converged", None),
        ({"recipe": "paper"}, "paper", 0),
        ({"epochs": 2}, "paper", 0),  # an option of the paper's recipe selects it
        ({"head": "light"}, "default", 600),
        ({"head": "light", "recipe": "paper"}, "paper", 0),
        ({"head": "light", "lr": 0.1}, "paper", 0),
    ],
)
def test_recipes_by_option(
    tmp_path: Path, changes: dict[str, Any], name: str, min_steps: int | None
) -> None:
    plain = request(squares(tmp_path), epochs=None, lr=None)
    spec = resolve(replace(plain, **changes), Session(None)).spec
    assert spec.recipe.name == name
    assert getattr(spec.recipe, "min_steps", None) == min_steps
    assert RunSpec.from_json(spec.to_json()) == spec
    record = Record(spec, {**FACTS, "dataset": str(tmp_path), **_asked(changes)}, {}, (), ())
    assert resolve(config_of(record), Session(None)).recipe == spec.recipe


def _asked(changes: dict[str, Any]) -> dict[str, object]:
    return {"asked_recipe": {k: v for k, v in changes.items() if k in ("epochs", "lr")}}


def test_the_default_recipe_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--recipe default cannot be changed by --epochs, --lr"):
        tiny_run(tmp_path, recipe="default")


def test_few_images_do_not_shorten_the_default_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.runs.resolve.MIN_STEPS", 160)  # more than 150 epochs of one batch
    changes = {"head": "light", "protocol": "fewshot", "shots": 2, "draws": 1, "input_px": 8}
    assert probed(tmp_path, **changes).trials[0].training["steps"] == 160


def test_every_head_with_a_linear_recipe_can_be_solved() -> None:
    for name in registry.names("heads"):
        plugin = registry.get("heads", name)
        if plugin.recipe is not None:
            assert hasattr(plugin.build([3], [1], 2), "set_solution")
