"""The benchmark of speed runs on any machine, and its shares follow from its own numbers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench import flops, registry

FOLDER = Path(__file__).parent.parent / "benchmarks"
Call = Callable[..., int]


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which a user calls by its path, with a matrix product that a test can wait for.

    The big families of backbones are not there, as on a machine that is rented for an hour.
    """
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(sys.modules, "open_clip", None)
    script = importlib.import_module("throughput")
    monkeypatch.setitem(script.MATMUL_SIDE, "cpu", 64)
    return script


@pytest.fixture
def call(throughput: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: object) -> int:
        small = ("--device", "cpu", "--px", 32, "--batch-size", 2, "--seconds", 0.001)
        monkeypatch.setattr(sys, "argv", ["throughput.py", *map(str, (*small, *words))])
        with pytest.raises(SystemExit) as stop:
            throughput.main()
        return int(stop.value.code or 0)

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shares_follow_from_speed_and_arithmetic(
    call: Call, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    assert call("--precision", precision, "--repeats", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["forward", "training step", "features"]
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    cost = flops.forward_flops(network, (3, 32, 32)) / 1e9
    assert rows["forward"]["gflops_per_image"] == pytest.approx(cost)
    assert rows["training step"]["gflops_per_image"] == pytest.approx(3 * cost)
    assert rows["features"]["gflops_per_image"] < cost  # the tail is left out
    for row in rows.values():
        speed = row["images_per_s"] * row["gflops_per_image"] * 1e9
        assert row["of_matmul"] == pytest.approx(speed / told["matmul_flops"])
        assert 0 < row["slowest"] <= row["images_per_s"] <= row["fastest"]
        assert row["of_peak"] is None  # nobody prints one for this CPU
    assert told["threads"] == torch.get_num_threads()


def test_a_backbone_that_is_not_trained_here_is_timed_by_its_features(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--backbone", "rgb", "--repeats", 1, "--precision", "fp32") == 0
    told = capsys.readouterr().out
    assert "rgb has no network to train: only features are timed." in told
    assert "features" in told
    assert "training step" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--backbone", "cmd-huge"), "cmd-huge"),
        (("--precision", "fp16"), "'fp16' is not one of fp32, bf16"),
        (("--px", 40, "--precision", "fp32"), "divisible by 32"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    call: Call, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], told: str
) -> None:
    assert call(*words) == 2
    assert told in capsys.readouterr().err


def test_works_are_timed_forwards_and_then_backwards(
    throughput: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = throughput.Asked("cmd-tiny", "cpu", "fp32", 32, 1, False, repeats=3, seconds=0.001)
    machine = throughput.Machine(asked)
    works = [throughput.Work(name, lambda: None, 1, 1.0) for name in "ABC"]
    order: list[str] = []

    def timed(_: object, work: Any, runs: int) -> float:
        order.append(work.name)
        return 0.001

    monkeypatch.setattr(throughput, "_timed", timed)
    throughput._interleaved(machine, works, lambda *_: None)
    assert "".join(order) == "ABC" + "ABC" + "CBA" + "ABC"  # the first tells how many runs


def test_a_step_of_the_benchmark_trains(throughput: ModuleType) -> None:
    works = importlib.import_module("works")
    asked = throughput.Asked("cmd-tiny", "cpu", "fp32", 32, 1, False, repeats=1, seconds=0.001)
    torch.manual_seed(0)
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    before = [each.detach().clone() for each in network.parameters()]
    lesson = works.Lesson(throughput.Machine(asked), network, torch.rand(1, 3, 32, 32) * 2 - 1)
    lesson.step(network)
    moved = [not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True)]
    averaged = [not torch.equal(*pair) for pair in zip(before, lesson.average, strict=True)]
    assert any(moved)
    assert any(averaged)
    assert all(each.grad is None for each in network.parameters())
