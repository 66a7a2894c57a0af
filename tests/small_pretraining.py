"""A pretraining of a few thousand weights on a dozen tiles, for the tests of pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from bench.api import Backbone
from bench.backbones.cmd.network import CMD
from bench.models import checkpoints
from bench.models.checkpoints import read_container, read_weights
from bench.pretrain.config import PretrainConfig
from bench.pretrain.job import CHECKPOINTS, PretrainJob, prepare
from bench.pretrain.trainer import TrainingOutcome, train


def no_extractor() -> nn.Module:
    raise AssertionError("pretraining builds no extractor")


NARROW = Backbone(
    name="narrow",
    build=no_extractor,  # type: ignore[arg-type]
    network=lambda *, cond_dim: CMD(8, cond_dim),
)
CONFIG = PretrainConfig(
    backbone="narrow",
    images=Path(),
    out=Path(),
    steps=6,
    save_every=2,
    picture_every=3,
    validate_every=3,
    batch_size=4,
    lr=1e-3,
    ema=0.5,
    precision="fp32",
    crop_px=32,
    held_out=2,
)


def write_tiles(folder: Path, count: int = 12) -> Path:
    """Write tiles of 40 px: dark discs on a pale ground."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    for number in range(count):
        pixels = np.full((40, 40, 3), (230, 200, 220), np.uint8)
        for y, x in rng.integers(0, 40, (6, 2)):
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 25] = (110, 60, 140)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def quiet(stage: str, done: int, total: int) -> None: ...


def job_of(images: Path, out: Path, plugin: Backbone = NARROW, **changes: object) -> PretrainJob:
    config = replace(CONFIG, images=images, out=out, **changes)  # type: ignore[arg-type]
    return prepare(plugin, config)


def pretrain(
    images: Path, out: Path, plugin: Backbone = NARROW, **changes: object
) -> TrainingOutcome:
    return train(job_of(images, out, plugin, **changes), quiet)


def newest(out: Path) -> Path:
    """Return the newest checkpoint of an output folder."""
    return checkpoints.all_of(out / CHECKPOINTS)[-1]


def content(out: Path) -> dict[str, object]:
    """Return the content of the newest checkpoint, flat, with the bytes of each tensor."""
    return dict(_flat(read_container(newest(out)), ""))


def weights_bytes(path: Path) -> bytes:
    return b"".join(weight.numpy().tobytes() for weight in read_weights(path).tensors.values())


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Tensor):
        yield name, (str(value.dtype), value.shape, value.stride(), value.numpy().tobytes())
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}/{key}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _flat(part, f"{name}/{number}")
    else:
        yield name, value
