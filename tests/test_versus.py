"""The benchmarks against rivals: order, equality before time, and what our own sides tell.

The rivals' sides need environments of their own and do not run here.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.errors import BenchError

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script, which a user calls by its path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_sides_take_turns_forwards_and_then_backwards(script: Any, tmp_path: Path) -> None:
    versus, order = script("versus"), []

    class Noting(versus.Side):
        def run(self, shared: object, root: Path) -> dict[str, int]:
            order.append(self.name)
            return {"turn": len(order)}

    told = versus.interleaved([Noting(name, "", None) for name in "AB"], {}, tmp_path, 3)
    assert "".join(order) == "ABBAAB"
    assert [run["turn"] for run in told["A"]] == [1, 4, 5]


def test_a_side_that_stops_says_why(script: Any, tmp_path: Path) -> None:
    side = script("versus").Side("ours", "ours_scoring.py", None)
    with pytest.raises(BenchError, match="KeyError: 'masks'"):
        side.run({}, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_our_side_keeps_the_maps_of_the_very_network(
    script: Any, tmp_path: Path, precision: str
) -> None:
    build, versus = script("cache_build"), script("versus")
    asked = build.Asked("vit_tiny_patch16_224", 224, 2, 2, precision, 1)
    build.pictures(tmp_path / "few", asked)
    build.weights(tmp_path / "weights.safetensors", asked.network)
    shared = {**vars(asked), "weights": str(tmp_path / "weights.safetensors"), "compared": 2}
    side = versus.Side("ours", "ours_cache.py", None)
    told = side.run({**shared, "images": str(tmp_path / "few")}, tmp_path)
    assert told["bytes"] > 2 * 192 * 14 * 14 * 2
    network = script("sides.network")
    model = network.Network(asked.network, str(tmp_path / "weights.safetensors"))
    from bench.folder import read

    pixels = [torch.from_numpy(each.read()[0].copy()) for each in read(tmp_path / "few")]
    images = (torch.stack(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        wanted = model(images)[0]
    (tmp_path / "theirs").mkdir()
    torch.save(wanted, tmp_path / "theirs" / "maps.pt")
    build.refuse_other_maps(tmp_path, ["ours", "theirs"], precision)
    torch.save(wanted + 0.2, tmp_path / "theirs" / "maps.pt")
    with pytest.raises(BenchError, match="other maps"):
        build.refuse_other_maps(tmp_path, ["ours", "theirs"], precision)


def test_our_side_trains_as_plain_torch_does(script: Any, tmp_path: Path) -> None:
    training, versus = script("head_training"), script("versus")
    asked = training.Asked(16, 64, 16, 4, 4, 3, 1e-3, 1)
    shared = {**vars(asked), **training.material(tmp_path / "material", asked)}
    ours = versus.Side("ours", "ours_fit.py", None).run(shared, tmp_path)
    assert ours["steps"] == 3
    assert ours["steady_steps"] == 2
    maps = torch.load(shared["maps"]).float()
    targets = torch.load(shared["targets"])
    layer = torch.nn.Conv2d(16, 2, 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)  # type: ignore
    stepper = torch.optim.AdamW(layer.parameters(), lr=asked.lr)
    loss = torch.tensor(torch.nan)
    for step in range(3):
        for group in stepper.param_groups:
            group["lr"] = asked.lr * (1 + torch.tensor(torch.pi * step / 3).cos().item()) / 2
        logits = torch.nn.functional.interpolate(layer(maps), (64, 64), mode="bilinear")
        found = logits.softmax(1)
        wanted = torch.nn.functional.one_hot(targets, 2).permute(0, 3, 1, 2)
        overlap, total = (found * wanted).sum((0, 2, 3)), (found + wanted).sum((0, 2, 3))
        dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
        loss = torch.nn.functional.cross_entropy(logits, targets) + dice
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    theirs = {"weight": layer.weight.detach().flatten().tolist()[:64], "loss": float(loss.detach())}
    assert max(training.refuse_other_training([ours, theirs]).values()) < 1e-4
    with pytest.raises(BenchError, match="not the same"):
        training.refuse_other_training([ours, {**theirs, "loss": theirs["loss"] + 0.01}])


def test_our_side_scores_the_masks(script: Any, tmp_path: Path) -> None:
    scoring, versus = script("scoring"), script("versus")
    scoring.masks(tmp_path / "masks.npy")
    import numpy as np

    found, true = np.load(tmp_path / "masks.npy")
    dice = 2 * (found & true).sum((1, 2)) / (found.sum((1, 2)) + true.sum((1, 2)))
    task = {"masks": str(tmp_path / "masks.npy"), "resamples": 1000}
    told = versus.Side("ours", "ours_scoring.py", None).run(task, tmp_path)
    assert told["mean"] == pytest.approx(dice.mean())
    half = 1.96 * dice.std() / len(dice) ** 0.5
    assert told["low"] == pytest.approx(dice.mean() - half, abs=half / 4)
    assert told["high"] == pytest.approx(dice.mean() + half, abs=half / 4)


def test_results_that_are_kept_name_no_place_of_this_machine() -> None:
    for path in (FOLDER / "results").glob("*.json"):
        text = path.read_text()
        assert json.loads(text)["rows"]
        assert "/home/" not in text
        assert "/tmp/" not in text
        assert "/work/" not in text
