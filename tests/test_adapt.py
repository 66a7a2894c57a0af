"""Test-time training: on each image, without its label, and undone afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.api import Labelled
from bench.api.experiment import Adaptation
from bench.api.nn import SelfSupervised
from bench.api.run_config import RunConfig
from bench.backbones.cmd.extractor import CMDExtractor, FeatureOptions
from bench.backbones.cmd.variants import Size, Variant
from bench.board import scores
from bench.board.scores import scores_of_images
from bench.data.folder import write
from bench.errors import BenchError, RunFailed
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.runs.execute import Paths, execute
from bench.runs.resolve import ResolvedRun, resolve
from bench.runs.trials import TrialRunner
from bench.training.predict import Predictor
from bench.training.test_time import adapt, restored

NARROW = Size("narrow", 8, (64, 4), 32)
HOW = Adaptation(steps=2, views=2, lr=1e-2, part="all")
OPTIONS = {"steps": "2", "views": "2", "lr": "1e-2", "part": "all"}


def _extractor(arch: str = "convnext") -> CMDExtractor:
    """A narrow network whose gates are open, as after training: at zero nothing would change."""
    torch.manual_seed(0)
    extractor = CMDExtractor(Variant(NARROW, arch, "pixel"), FeatureOptions())
    for weight in extractor.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return extractor


def _runner(arch: str = "convnext") -> ExtractorRunner:
    return ExtractorRunner(_extractor(arch), View("whole", 32), torch.device("cpu"))


def _state(runner: ExtractorRunner) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in runner.extractor.state_dict().items()}


def _changed(runner: ExtractorRunner, before: Mapping[str, torch.Tensor]) -> set[str]:
    after = runner.extractor.state_dict()
    return {name for name, each in before.items() if not torch.equal(each, after[name])}


def _patches() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _adapted(runner: ExtractorRunner, how: Adaptation, seed: int = 0) -> None:
    adapt(runner, _patches(), how, torch.Generator().manual_seed(seed))


# ---- settings --------------------------------------------------------------------------------


def test_settings_are_read_from_text() -> None:
    text = {"steps": "3", "views": "4", "lr": "1e-3", "part": "decoder", "online": "true"}
    assert Adaptation.parse(text) == Adaptation(3, 4, 1e-3, "decoder", online=True)
    assert Adaptation.parse({}) == Adaptation()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"step": "3"}, "no 'step'; it takes steps, views, lr, part, online"),
        ({"steps": "many"}, "steps='many' is not of type int"),
        ({"online": "perhaps"}, "online='perhaps' is not of type bool"),
        ({"steps": "0"}, "positive"),
        ({"lr": "-1"}, "positive"),
        ({"lr": "inf"}, "positive"),
    ],
)
def test_wrong_settings_are_named(text: dict[str, str], told: str) -> None:
    with pytest.raises(BenchError, match=told):
        Adaptation.parse(text)


# ---- what learns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "part", "marks"),
    [
        ("convnext", "adaln", (".modulation.",)),
        ("convnext", "decoder", ("ups.", "decoder.", "tail.")),
        ("dit", "adaln", (".modulation.",)),
        ("attention-unet", "adaln", (".embedding.",)),
        ("attention-unet", "decoder", ("ups.", "decoder.", "exit")),
        ("convnext", "all", ("",)),
    ],
)
def test_only_the_chosen_part_learns(arch: str, part: str, marks: tuple[str, ...]) -> None:
    runner = _runner(arch)
    before = _state(runner)
    _adapted(runner, dataclasses.replace(HOW, part=part))
    changed = {name.removeprefix("network.") for name in _changed(runner, before)}
    assert changed
    for name in changed:
        assert any(mark in name if mark[:1] == "." else name.startswith(mark) for mark in marks)
    assert not any(each.requires_grad for each in runner.extractor.parameters())
    assert all(each.grad is None for each in runner.extractor.parameters())


def test_a_part_that_a_network_lacks_is_refused() -> None:
    with pytest.raises(BenchError, match=r"no part 'decoder'.*it has adaln, all"):
        _extractor("dit").parameter_group("decoder")
    with pytest.raises(BenchError, match=r"no part 'encoder'.*it has adaln, decoder, all"):
        _extractor().parameter_group("encoder")


def _loss(runner: ExtractorRunner) -> float:
    assert isinstance(runner.extractor, SelfSupervised)
    images, generator = _patches().expand(16, -1, -1, -1), torch.Generator().manual_seed(9)
    with torch.no_grad():
        return runner.extractor.self_supervised_loss(images, generator).item()


def test_learning_on_an_image_restores_it_better() -> None:
    runner = _runner()
    before = _loss(runner)
    _adapted(runner, Adaptation(steps=30, views=4, lr=3e-3, part="all"))
    assert _loss(runner) < 0.8 * before


def test_the_own_loss_is_that_of_masked_diffusion_by_hand() -> None:
    extractor = _extractor()
    last = extractor.network.get_submodule("tail.image")
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    last.weight.data.zero_()  # it predicts its bias alone
    last.bias.data.fill_(0.25)
    images = _patches()
    with torch.no_grad():
        loss = extractor.self_supervised_loss(images, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(float((2 * images - 1 - 0.25).abs().mean()), rel=1e-5)


def test_images_that_do_not_fit_the_network_are_padded() -> None:
    extractor = _extractor()
    loss = extractor.self_supervised_loss(
        torch.rand(2, 3, 20, 44), torch.Generator().manual_seed(0)
    )
    assert loss.isfinite()


def test_the_seed_alone_decides() -> None:
    states = []
    for ambient, seed in ((1, 0), (2, 0), (2, 1)):
        runner = _runner()
        torch.manual_seed(ambient)
        _adapted(runner, HOW, seed)
        states.append(_state(runner)["network.stem.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])


def test_weights_come_back_even_after_an_error() -> None:
    runner = _runner()
    before = _state(runner)

    def fails() -> None:
        with restored(list(runner.extractor.parameters())):
            _adapted(runner, HOW)
            assert _changed(runner, before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not _changed(runner, before)


def test_a_loss_that_is_not_finite_fails_the_run() -> None:
    runner = _runner()
    with pytest.raises(RunFailed, match=r"step 1.*--ttt-option lr"):
        adapt(runner, _patches() * float("nan"), HOW, torch.Generator())


# ---- on the images of a run ------------------------------------------------------------------


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    samples = []
    for number in range(5):
        instances = np.zeros((32, 32), np.int32)
        instances[5 : 12 + number, 4:20] = 1
        image = np.where(instances[..., None] > 0, 70, 190) + generator.integers(0, 30, (32, 32, 3))
        split = "train" if number < 2 else "test"
        samples.append(
            Labelled(f"i{number}", image.astype(np.uint8), instances, split, f"p{number}")
        )
    write(samples, tmp_path / "cells", about="cells")
    return tmp_path / "cells"


def _request(folder: Path, **changes: Any) -> RunConfig:
    request = RunConfig(
        dataset=str(folder),
        epochs=2,
        folds=0,
        view="whole",
        input_px=32,
        ttt=True,
        ttt_option=OPTIONS,
    )
    return dataclasses.replace(request, **changes)


def _segmenter(job: ResolvedRun, how: Adaptation | None) -> Predictor:
    runner = job.runner
    runner.load()
    head = job.head.build(runner.extractor.channels, runner.extractor.strides, 2)
    torch.manual_seed(0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    bank = FeatureBank(runner, list(job.samples.values()), None)
    return Predictor(head.eval(), bank, adaptation=how)


def _logits(segmenter: Predictor, image: str) -> torch.Tensor:
    """Segment an image, and look at the logits that it was decided by."""
    seen = []
    decode = segmenter.head.decode
    segmenter.head.decode = lambda logits: seen.append(logits.clone()) or decode(logits)  # type: ignore[method-assign]
    segmenter(image, (32, 32))
    segmenter.head.decode = decode  # type: ignore[method-assign]
    return seen[0]


def test_each_image_starts_from_the_trained_weights_unless_online(cells: Path) -> None:
    job = resolve(_request(cells), None)
    job.runner.load()
    before = _state(job.runner)
    with _segmenter(job, HOW).opened() as segmenter:
        alone = _logits(segmenter, "i3")
        _logits(segmenter, "i4")
        assert not _changed(job.runner, before)
        assert torch.equal(_logits(segmenter, "i3"), alone)
    with _segmenter(job, dataclasses.replace(HOW, online=True)).opened() as segmenter:
        assert torch.equal(_logits(segmenter, "i3"), alone)
        assert _changed(job.runner, before)
        assert not torch.equal(_logits(segmenter, "i3"), alone)
    assert not _changed(job.runner, before)


def test_with_a_rate_that_changes_nothing_the_logits_are_the_plain_ones(cells: Path) -> None:
    job = resolve(_request(cells), None)
    plain = _logits(_segmenter(job, None), "i3")
    still = _logits(_segmenter(job, dataclasses.replace(HOW, lr=1e-30)), "i3")
    assert torch.equal(still, plain)
    assert not torch.equal(_logits(_segmenter(job, HOW), "i3"), plain)


def test_a_run_is_its_own_record_beside_the_plain_one(cells: Path, tmp_path: Path) -> None:
    adapted = execute(_request(cells), Paths(tmp_path), lambda *_: None).record
    plain = execute(_request(cells).without_ttt(), Paths(tmp_path), lambda *_: None).record
    assert adapted.run_id != plain.run_id
    assert adapted.spec.ttt == HOW
    assert plain.spec.ttt is None
    assert [trial.loss for trial in adapted.trials] == [trial.loss for trial in plain.trials]
    assert "(ttt lr=0.01 online=False part=all steps=2 views=2)" in scores.label(adapted)
    assert "ttt" not in scores.label(plain)
    found = scores.difference(adapted, plain, "dice")
    means = [scores_of_images(each, "dice").mean() for each in (adapted, plain)]
    assert found.mean == pytest.approx(means[0] - means[1])


def test_test_images_are_not_computed_plainly(cells: Path, tmp_path: Path) -> None:
    job = resolve(_request(cells), None)
    from bench.store.results import Store

    execution = TrialRunner(job, Store(tmp_path), "x", None)
    execution.run(None, lambda *_: None)
    assert execution.bank.images_computed == 2  # the training images


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbone": "rgb"}, "rgb cannot learn from an image without labels"),
        ({"ttt_option": {"part": "encoder"}}, "no part 'encoder'"),
    ],
)
def test_what_cannot_be_adapted_is_refused(cells: Path, change: Any, told: str) -> None:
    with pytest.raises(BenchError, match=told):
        resolve(_request(cells, **change), None)


def test_runs_on_other_images_are_not_compared(cells: Path, tmp_path: Path) -> None:
    request = _request(cells, backbone="rgb").without_ttt()
    whole = execute(request, Paths(tmp_path), lambda *_: None).record
    part = execute(
        dataclasses.replace(request, limit=1),
        Paths(tmp_path),
        lambda *_: None,
    )
    with pytest.raises(BenchError, match="not scored on the same images"):
        scores.difference(whole, part.record, "dice")


def test_a_backbone_that_cannot_adapt_is_refused_before_the_run_without_adaptation(
    cells: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["run", "--backbone", "rgb", "--dataset", str(cells), "--ttt", "--no-cache"]
    code, _, err = command(*words, "--results", str(tmp_path / "results"))
    assert code == 2
    assert "--ttt is for CMD backbones" in " ".join(err.split())
    assert not (tmp_path / "results").exists()
