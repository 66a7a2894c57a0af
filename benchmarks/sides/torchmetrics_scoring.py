"""torchmetrics' side of `scoring.py`: `BootStrapper` around its `DiceScore`."""

# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false
# The imports are installed in the environment of the other package.

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torchmetrics.segmentation import DiceScore
from torchmetrics.wrappers import BootStrapper

task = json.loads(sys.argv[1])
predicted, true = (torch.from_numpy(mask).long() for mask in np.load(task["masks"]))
torch.manual_seed(0)
score = DiceScore(num_classes=2, include_background=False, input_format="index", average="micro")
score.update(predicted, true)
mean = float(score.compute())
score.reset()
began = time.perf_counter()
boot = BootStrapper(
    score,
    num_bootstraps=task["resamples"],
    quantile=torch.tensor([0.025, 0.975]),
    sampling_strategy="multinomial",
)
boot.update(predicted, true)
boot.compute()
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "scores": 1, "mean": mean}))
