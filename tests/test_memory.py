"""The memory of a training step is estimated before a run, and batches are divided or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import place, request, run, squares
from torch import Tensor, nn

from bench import registry
from bench.api.nn import cross_entropy_and_dice
from bench.errors import BenchError, RunFailed
from bench.features.out_of_memory import BatchSplit, JointLoss, accumulate
from bench.models.load import open_backbone
from bench.training import memory

GIB = 1 << 30


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n"}, 4096),
        (
            {
                "proc/meminfo": "MemAvailable: 1000 kB\n",
                "proc/self/cgroup": "0::/job/step\n",
                "cgroup/job/memory.max": "5000\n",
                "cgroup/job/memory.current": "3000\n",
                "cgroup/job/memory.stat": "anon 1\ninactive_file 100\n",
                "cgroup/job/step/memory.max": "max\n",
                "cgroup/job/step/memory.current": "1\n",
            },
            2100,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 1000 kB\n",
                "proc/self/cgroup": "9:cpu:/x\n4:memory,cpuset:/docker/abc\n",
                "cgroup/memory/memory.limit_in_bytes": "700\n",  # of a container
                "cgroup/memory/memory.usage_in_bytes": "600\n",
            },
            100,
        ),
        ({}, None),
    ],
)
def test_the_available_memory_is_the_smallest_of_the_machine_and_its_control_groups(
    files: dict[str, str],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    assert memory.available_bytes(torch.device("cpu")) == expected


def test_the_peak_is_that_of_tensors_that_are_alive_together() -> None:
    with memory.PeakMemory() as peak, torch.device("meta"):
        first = torch.zeros(1000)
        second = first + 1  # 8000 bytes are alive
        del first
        third = second.view(10, 100) * 2
        del second, third
        torch.zeros(1500)
    assert peak.peak == 8000


def test_the_estimate_grows_with_the_patches_and_a_batch_norm_is_not_divisible() -> None:
    with torch.device("meta"):
        extractor = open_backbone("cmd-tiny").extractor
        heads = {
            name: registry.get("heads", name).build(extractor.channels, extractor.strides, 2)
            for name in ("linear", "decoder")
        }
    one, eight = (memory.training_bytes(heads["decoder"], extractor, 64, n) for n in (1, 8))
    assert 5 * one < eight + 5 * 16 * sum(w.numel() for w in heads["decoder"].parameters())
    assert eight > 10 * memory.training_bytes(heads["linear"], extractor, 64, 8)
    divisible = {name: memory.is_divisible(head, extractor) for name, head in heads.items()}
    assert divisible == {"linear": True, "decoder": False}


@pytest.mark.fault(35)
def test_a_batch_that_exceeds_the_memory_is_divided_with_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = request(squares(tmp_path / "squares", count=8), recipe="paper", epochs=5, batch_size=4)
    whole = run(config, tmp_path / "whole").record
    monkeypatch.setattr(memory, "training_bytes", lambda *arguments: arguments[3] * GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 2 * GIB)
    outcome = run(config, tmp_path / "parts")
    assert outcome.context["out_of_memory"] == {"parts_of_a_batch": 2}
    (one,), (other,) = whole.trials, outcome.record.trials
    assert other.loss == pytest.approx(one.loss, abs=1e-5)
    for name in ("tp", "fp", "fn"):
        np.testing.assert_allclose(one.counts[name], other.counts[name], atol=1)


@pytest.mark.fault(35)
def test_a_head_with_batch_norm_that_exceeds_the_memory_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(tmp_path, monkeypatch)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 1 << 20)
    words = ("run", "--dataset", "tnbc", "--backbone", "one-colour", "--input-px", "24")
    refused = here.bench(*words, "--protocol", "full", "--head", "decoder")
    assert (refused.code, "Traceback" in refused.err) == (2, False)
    assert "batch norm needs the whole batch" in " ".join(refused.err.split())
    assert "Use `--head linear`" in " ".join(refused.err.split())
    assert not here.records
    (tmp_path / "grid.toml").write_text(
        'backbone = "one-colour"\ndataset = "tnbc"\ninput-px = 24\n'
    )
    plan = json.loads(here.bench("sweep", str(tmp_path / "grid.toml"), "--plan", "--json").out)
    assert plan["peak_bytes"] > GIB / 2
    assert float(plan["cells"][0]["peak GiB"]) == pytest.approx(plan["peak_bytes"] / GIB, abs=0.05)


@pytest.mark.fault(11)
def test_a_loss_that_couples_the_images_of_a_batch_has_the_gradient_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    layer, dropout = nn.Conv2d(3, 2, 1), nn.Dropout(0.5)
    images, target = torch.randn(5, 3, 8, 8), torch.randint(2, (5, 8, 8))

    def logits(part: Sequence[int]) -> Tensor:
        return layer(dropout(images[list(part)]))

    def loss(part: Sequence[int]) -> Tensor:
        return cross_entropy_and_dice(logits(part), target[list(part)])

    def gradient(parts: int) -> tuple[Tensor, float]:
        torch.manual_seed(1)
        layer.zero_grad()
        joint = JointLoss(logits, lambda values: cross_entropy_and_dice(values, target))
        total = accumulate(loss, range(5), layer.zero_grad, BatchSplit(parts=parts), joint=joint)
        assert layer.weight.grad is not None
        return layer.weight.grad.clone(), total

    (whole, total), (parts, again) = gradient(1), gradient(3)
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)
    assert again == pytest.approx(total, abs=1e-6)

    def full(_: Sequence[int]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunFailed, match=r"which batch norm needs at once.*`--head linear`"):
        accumulate(full, range(5), layer.zero_grad, BatchSplit(), divisible=False)


def test_a_plugin_that_cannot_run_on_the_meta_device_is_not_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise NotImplementedError("of a plug-in")

    monkeypatch.setattr(memory, "training_bytes", fails)
    config = request(squares(tmp_path / "squares", count=2), recipe="paper", epochs=1)
    assert run(config, tmp_path).record
    monkeypatch.setattr(memory, "training_bytes", lambda *_: GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 0)
    with pytest.raises(BenchError, match=r"needs about 1\.0 GiB of memory, and 0\.0 GiB are avail"):
        run(config, tmp_path / "refused")
