"""Our side of `scoring.py`: pixel counts of the images, all scores of them, intervals."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from bench import registry
from bench.api import Prediction
from bench.stats.bootstrap import intervals

task = json.loads(sys.argv[1])
predicted, true = np.load(task["masks"])  # both (M, H, W) bool
metric = registry.get("metrics", "dice")
probability = np.zeros(predicted.shape[1:], np.float32)
began = time.perf_counter()
rows = [
    metric.count(Prediction(mask, probability), truth)
    for mask, truth in zip(predicted, true.astype(np.int32), strict=True)
]
counts = {name: np.array([row[name] for row in rows]) for name in rows[0]}
scores = {name: score(counts) for name, score in metric.scores.items()}
names = [f"{number:03}" for number in range(len(predicted))]
intervals(
    np.stack(list(scores.values())),
    names,
    method="percentile",
    resamples=task["resamples"],
    seed_text="masks",
)
seconds = time.perf_counter() - began
mean = float(scores["dice"].mean())
print(json.dumps({"seconds": seconds, "scores": len(scores), "mean": mean}))
