"""Our side of `cache_build.py`: feature extraction as in `bench run`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from bench.data import folder
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.models.load import open_backbone

task = json.loads(sys.argv[1])
opened = open_backbone(f"timm:{task['network']}", checkpoint=Path(task["weights"]))
samples = folder.read(Path(task["images"]))
view = View("whole", task["px"])
runner = ExtractorRunner(opened.extractor, view, torch.device("cpu"), task["precision"])
bank = FeatureBank(runner, samples, Path(task["work"]) / "cache")
began = time.perf_counter()
bank.prepare([sample.id for sample in samples], lambda *_: None)
seconds = time.perf_counter() - began
first = [bank.maps([(sample.id, 0)])[0][0] for sample in samples[: task["compared"]]]
torch.save(torch.stack(first), Path(task["work"]) / "maps.pt")
size = sum(
    path.stat().st_size for path in (Path(task["work"]) / "cache").rglob("*") if path.is_file()
)
print(json.dumps({"seconds": seconds, "bytes": size}))
