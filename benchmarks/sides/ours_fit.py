"""Our side of `head_training.py`: `fit` of the linear head on cached features."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from bench.api import Recipe, Sample
from bench.api.nn import FeatureExtractor
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.heads._linear import LinearHead  # pyright: ignore[reportMissingImports]
from bench.training.fit import TrainingSet, fit
from bench.training.malloc import keep_freed_memory


class Cached(FeatureExtractor):
    """An extractor whose maps are all cached."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.channels, self.strides = (width,), (stride,)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        raise AssertionError("the maps are in the cache")


task = json.loads(sys.argv[1])
keep_freed_memory()
maps = torch.load(task["maps"])  # (P, C, h, w) bfloat16
targets = torch.load(task["targets"])  # (P, S, S)
side = task["px"]
runner = ExtractorRunner(
    Cached(maps.shape[1], side // maps.shape[2]), View("whole", side), torch.device("cpu")
)


def sample(number: int) -> Sample:
    return Sample(f"i{number}", "train", "p", "", None, f"{number:064x}", read=lambda: (None, None))  # type: ignore


samples = [sample(number) for number in range(len(maps))]
cache = Path(task["work"]) / "cache"
writer = FeatureBank(runner, samples, cache)
for number, level in enumerate(maps):
    writer._write(f"i{number}", [level[None]])
torch.manual_seed(0)
head = LinearHead(runner.extractor.channels, 2, standardise=False)
training_set = TrainingSet(
    FeatureBank(runner, samples, cache), [(sample.id, 0) for sample in samples], list(targets)
)
recipe = Recipe(epochs=task["epochs"], lr=task["lr"], batch_size=task["batch_size"])
ends: list[float] = []
began = time.perf_counter()
loss = fit(head, training_set, recipe, 0, lambda *_: ends.append(time.perf_counter()))
per_epoch = -(-len(maps) // task["batch_size"])
print(
    json.dumps(
        {
            "seconds": ends[-1] - began,
            "steady_seconds": ends[-1] - ends[0],
            "steps": per_epoch * task["epochs"],
            "steady_steps": per_epoch * (task["epochs"] - 1),
            "loss": loss,
            "weight": head.classify.weight.flatten().tolist()[:64],
        }
    )
)
