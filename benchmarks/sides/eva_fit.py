"""kaiko-eva's side of `head_training.py`: its `fit` of a linear decoder on cached embeddings.

With its loss, data set of embeddings, trainer and defaults for workers, without the validation and
metrics of its leaderboard. The settings of AdamW and the cosine are ours.
"""

# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false
# The imports are installed in the environment of the other package.

from __future__ import annotations

import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from eva.core.data.dataloaders import DataLoader
from eva.core.data.datamodules import DataModule
from eva.core.data.datamodules.schemas import DataloadersSchema, DatasetsSchema
from eva.core.trainers import Trainer
from eva.vision.data.datasets.segmentation.embeddings import EmbeddingsSegmentationDataset
from eva.vision.losses import DiceCELoss
from eva.vision.models.modules.semantic_segmentation import SemanticSegmentationModule
from eva.vision.models.networks.decoders.segmentation.linear import LinearDecoder
from lightning.pytorch.callbacks import Callback
from torch import nn


class Clock(Callback):
    """Record when epochs end, and the losses of the last."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[torch.Tensor] = []

    def on_train_epoch_start(self, *_: object, **__: object) -> None:
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *_: object) -> None:  # type: ignore
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())


def write(root: Path, maps: torch.Tensor, targets: torch.Tensor) -> Path:
    """Write the files of eva's `predict`: one per embedding, one per mask, and a manifest."""
    rows = []
    root.mkdir(parents=True)
    for number, (embedding, target) in enumerate(zip(maps, targets, strict=True)):
        torch.save([embedding.clone()], root / f"{number}.pt")
        torch.save(target.clone(), root / f"{number}-mask.pt")
        names = {"embeddings": f"{number}.pt", "target": f"{number}-mask.pt"}
        rows.append({"origin": f"{number}", **names, "split": "train"})
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


def main() -> None:
    """Fit once."""
    task = json.loads(sys.argv[1])
    maps, targets = torch.load(task["maps"]).float(), torch.load(task["targets"])
    root = write(Path(task["work"]) / "embeddings", maps, targets)
    layer = nn.Linear(maps.shape[1], 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    steps = -(-len(maps) // task["batch_size"]) * task["epochs"]
    clock = Clock()
    cosine = partial(
        torch.optim.lr_scheduler.LambdaLR,
        lr_lambda=lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2,
    )
    module = SemanticSegmentationModule(
        decoder=LinearDecoder(layer),
        criterion=DiceCELoss(softmax=True, batch=True, smooth_nr=1, smooth_dr=1),
        optimizer=partial(torch.optim.AdamW, lr=task["lr"]),
        lr_scheduler=lambda optimizer: {"scheduler": cosine(optimizer), "interval": "step"},  # type: ignore
    )
    trainer = Trainer(
        default_root_dir=str(Path(task["work"]) / "logs"),
        accelerator="cpu",
        max_epochs=task["epochs"],
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataModule(
        datasets=DatasetsSchema(train=EmbeddingsSegmentationDataset(str(root), "manifest.csv")),
        dataloaders=DataloadersSchema(
            train=DataLoader(batch_size=task["batch_size"], shuffle=True, pin_memory=False)
        ),
    )
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    per_epoch = -(-len(maps) // task["batch_size"])
    result = {
        "seconds": clock.ends[-1] - began,
        "steady_seconds": clock.ends[-1] - clock.ends[0],
        "steps": steps,
        "steady_steps": per_epoch * (task["epochs"] - 1),
        "loss": float(torch.stack(clock.losses).mean()),
        "weight": layer.weight.detach().flatten().tolist()[:64],
    }
    sys.stdout.flush()
    os.write(1, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
