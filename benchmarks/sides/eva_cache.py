"""kaiko-eva's side of `cache_build.py`: its `predict`, with its writer of segmentation embeddings.

The time includes the start of its workers and of its writing process; a second time begins with the
first batch.
"""

# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false
# The imports are installed in the environment of the other package.

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from eva.core.callbacks.writers.embeddings.segmentation import SegmentationEmbeddingsWriter
from eva.core.data.dataloaders import DataLoader
from eva.core.data.datamodules import DataModule
from eva.core.data.datamodules.schemas import DataloadersSchema, DatasetsSchema
from eva.core.interface import Interface
from eva.core.models.modules.inference import InferenceModule
from eva.core.trainers import Trainer
from eva.vision.data.datasets.vision import VisionDataset
from lightning.pytorch.callbacks import Callback
from network import MEAN, STD, Network
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2


class Images(VisionDataset):
    """Images and masks of a folder, read as by eva's data sets."""

    def __init__(self, root: str) -> None:
        steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        super().__init__(lambda image, target: (image, target))
        self._to_tensor = v2.Compose(steps)
        self._paths = sorted((Path(root) / "images").glob("*.png"))
        self._transforms = None

    def __len__(self) -> int:
        return len(self._paths)

    def filename(self, index: int) -> str:
        return self._paths[index].name

    def load_data(self, index: int) -> torch.Tensor:
        return self._to_tensor(Image.open(self._paths[index]).convert("RGB"))

    def load_target(self, index: int) -> tv_tensors.Mask:
        path = self._paths[index].parent.parent / "labels" / self._paths[index].name
        return tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(path))[0].long())


class Clock(Callback):
    """Record when the first batch begins."""

    began = 0.0

    def on_predict_batch_start(self, *_: object, **__: object) -> None:
        self.began = self.began or time.perf_counter()


def main() -> None:
    """Predict once."""
    task = json.loads(sys.argv[1])
    work = Path(task["work"])
    clock, writer = Clock(), SegmentationEmbeddingsWriter(str(work / "maps"))
    mixed = "bf16-mixed" if task["precision"] == "bf16" else "32-true"
    trainer = Trainer(
        default_root_dir=str(work / "logs"),
        accelerator="cpu",
        precision=mixed,
        callbacks=[writer, clock],
        logger=False,
        enable_progress_bar=False,
        inference_mode=True,
    )
    data = DataModule(
        datasets=DatasetsSchema(predict=Images(task["images"])),
        dataloaders=DataloadersSchema(
            predict=DataLoader(batch_size=task["batch_size"], pin_memory=False)
        ),
    )
    model = InferenceModule(Network(task["network"], task["weights"]))
    began = time.perf_counter()
    Interface().predict(trainer, model, data)
    ended = time.perf_counter()
    paths = sorted((work / "maps").glob("*-0.pt"))[: task["compared"]]
    torch.save(torch.stack([torch.load(path)[0].float() for path in paths]), work / "maps.pt")
    size = sum(path.stat().st_size for path in (work / "maps").glob("*-0.pt"))
    result = {"seconds": ended - began, "from_first_batch": ended - clock.began, "bytes": size}
    sys.stdout.flush()
    os.write(1, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
