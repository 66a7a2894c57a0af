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
found, true = np.load(task["masks"])  # (M, H, W) bool each
metric = registry.get("metrics", "dice")
probability = np.zeros(found.shape[1:], np.float32)
began = time.perf_counter()
rows = [
    metric.count(Prediction(mask, probability), truth)
    for mask, truth in zip(found, true.astype(np.int32), strict=True)
]
counts = {name: np.array([row[name] for row in rows]) for name in rows[0]}
scores = {name: score(counts) for name, score in metric.scores.items()}
names = [f"{number:03}" for number in range(len(found))]
bounds = intervals(
    np.stack(list(scores.values())),
    names,
    method="percentile",
    resamples=task["resamples"],
    seed_text="masks",
)
seconds = time.perf_counter() - began
interval = bounds[list(scores).index("dice")]
told = {"mean": float(scores["dice"].mean()), "low": interval.low, "high": interval.high}
print(json.dumps({"seconds": seconds, "scores": len(scores), **told}))
