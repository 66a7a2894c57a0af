"""A small data set, two small backbones and the command in this process, for tests of runs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, HeadPlugin, Labelled, Weights
from bench.api.nn import FeatureExtractor
from bench.cli.main import main
from bench.data.folder import write
from bench.heads._linear import LinearHead


class Colours(FeatureExtractor):
    """One frozen convolution at the resolution of the image."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (2,), (1,)
    opened = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        type(self).opened += not torch.empty(0).is_meta
        self.channels = (width,)
        self.conv = nn.Conv2d(3, width, 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]  # (N, C, H, W)


class Blurred(LinearHead):
    """A linear head on maps that are blurred first."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__(channels, classes)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return super().forward([nn.functional.avg_pool2d(m, 5, 1, 2) for m in maps], size)


HEAD = HeadPlugin("blurred", Blurred)
BACKBONES = (
    Backbone("one-colour", lambda: Colours(1), weights=Weights(needed=False)),
    Backbone("two-colours", lambda: Colours(2), weights=Weights(needed=False)),
    Backbone("three-colours", lambda: Colours(3), weights=Weights(needed=False)),
    Backbone("unreleased", lambda: Colours(4)),  # its weights are nowhere
)


@dataclass(frozen=True)
class Said:
    """What a command said: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one document on standard output."""
        return json.loads(self.out)

    @property
    def run(self) -> dict:
        """The only run of the document that `bench run --json` prints."""
        (run,) = self.json["runs"]
        return run


@dataclass(frozen=True)
class Place:
    """A folder with a data directory, a cache and results, and the command that uses them."""

    home: Path
    bench: Callable[..., Said]

    @property
    def records(self) -> dict[str, bytes]:
        """The bytes of every committed record, by its run."""
        paths = self.home.glob("results/runs/*/*/record.json")
        return {path.parent.name: path.read_bytes() for path in paths}


def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Write two sets of squares, register backbones and head, and give the command."""
    shelf = registry.catalogue("backbones").found
    for record in BACKBONES:
        monkeypatch.setitem(shelf, record.name, [registry.Found(record, "a test")])
    heads = registry.catalogue("heads").found
    monkeypatch.setitem(heads, HEAD.name, [registry.Found(HEAD, "a test")])
    for number, name in enumerate(("tnbc", "kumar")):
        write(squares(number), home / "data" / name, about="squares")
    own = {"BENCH_DATA": "data", "BENCH_CACHE": "cache", "BENCH_RESULTS": "results"}
    for name, folder in own.items():
        monkeypatch.setenv(name, str(home / folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return Said(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    return Place(home, call)


def squares(seed: int, patients: int = 12) -> list[Labelled]:
    """Draw dark squares on noise: half of the patients train, each has one image."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(patients):
        instances = np.zeros((24, 28), np.uint16)
        for label, (y, x) in enumerate(rng.integers(1, 17, (number % 3 + 1, 2)), start=1):
            instances[y : y + 6, x : x + 6] = label
        image = rng.integers(140, 220, (24, 28, 3)).astype(np.uint8)
        image[instances > 0] -= 70
        split = "train" if number < patients // 2 else "test"
        samples.append(
            Labelled(f"s{seed}-{number:02}", image, instances, split, f"{seed}p{number}")
        )
    return samples
