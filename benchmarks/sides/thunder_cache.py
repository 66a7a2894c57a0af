"""thunder-bench's side of `cache_build.py`: its pre-computation of patch embeddings."""

# pyright: reportMissingImports=false, reportIncompatibleMethodOverride=false
# The imports are installed in the environment of the other package.

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import h5py
import torch
from network import MEAN, STD, Network
from omegaconf import OmegaConf
from PIL import Image
from thunder.models.pretrained_models import PretrainedModel
from thunder.tasks.pre_computing_patch_embeddings import pre_computing_patch_embeddings
from torchvision import transforms


class Model(PretrainedModel):
    """A custom model as in THUNDER's documentation: (B, N, D) for segmentation."""

    vlm = False

    def __init__(self, name: str, weights: str) -> None:
        super().__init__()
        self.network = Network(name, weights)

    def get_transform(self) -> transforms.Compose:
        return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def get_linear_probing_embeddings(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0].mean((2, 3))

    def get_segmentation_embeddings(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0].flatten(2).transpose(1, 2)


def main() -> None:
    """Pre-compute once."""
    task = json.loads(sys.argv[1])
    work = Path(task["work"])
    paths = sorted((Path(task["images"]) / "images").glob("*.png"))
    width, height = Image.open(paths[0]).size
    whole = [0, height, 0, width]
    images = [[str(path), *whole] for path in paths]
    labels = [[str(path.parent.parent / "labels" / path.name), *whole] for path in paths]
    empty = {"images": [], "labels": []}
    splits = {"train": {"images": images, "labels": labels}, "val": empty, "test": empty}
    (work / "splits.json").write_text(json.dumps(splits))
    cfg = OmegaConf.create(
        {
            "dataset": {"data_splits": str(work / "splits.json")},
            "task": {"pre_comp_emb_batch_size": task["batch_size"]},
        }
    )
    model = Model(task["network"], task["weights"])
    enabled = task["precision"] == "bf16"
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        pre_computing_patch_embeddings(
            cfg, str(work / "maps"), "cpu", "images", None, ["segmentation"], "frozen",
            str(work / "maps"), "vit", False, False, model_cls=model,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    side = task["px"] // 16
    with h5py.File(work / "maps" / "train" / "embeddings.h5") as file:
        rows = [torch.from_numpy(file[str(n)][()]) for n in range(task["compared"])]
    maps = [row.T.reshape(-1, side, side) for row in rows]
    torch.save(torch.stack(maps), work / "maps.pt")
    size = (work / "maps" / "train" / "embeddings.h5").stat().st_size
    print(json.dumps({"seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main()
