"""MONAI's side of `scoring.py`: its `DiceMetric` of every image; it has no intervals."""

# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false
# The imports are installed in the environment of the other package.

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from monai.metrics.meandice import DiceMetric
from monai.networks.utils import one_hot

task = json.loads(sys.argv[1])
predicted, true = (torch.from_numpy(mask)[:, None] for mask in np.load(task["masks"]))
began = time.perf_counter()
score = DiceMetric(include_background=False)
score(one_hot(predicted, 2), one_hot(true, 2))
mean = score.aggregate()
assert isinstance(mean, torch.Tensor)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "scores": 1, "mean": float(mean)}))
