"""The benchmark of speed runs on any machine, and its shares follow from its numbers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.pretrain import flops

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_shares_follow_from_speed_and_arithmetic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("throughput")
    monkeypatch.setitem(script.MATMUL_SIDE, "cpu", 64)
    words = "--device cpu --px 32 --batch-size 2 --seconds 0.001 --repeats 2 --json"
    monkeypatch.setattr(sys, "argv", ["throughput.py", *words.split(), "--precision", "fp32"])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert not stop.value.code
    output = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in output["rows"]}
    assert list(rows) == ["forward", "training step", "features"]
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    cost = flops.forward_flops(network, (3, 32, 32)) / 1e9
    assert rows["forward"]["gflops_per_image"] == pytest.approx(cost)
    assert rows["training step"]["gflops_per_image"] == pytest.approx(3 * cost)
    assert rows["features"]["gflops_per_image"] < cost  # the tail is left out
    for row in rows.values():
        speed = row["images_per_s"] * row["gflops_per_image"] * 1e9
        assert row["of_matmul"] == pytest.approx(speed / output["matmul_flops"])
