"""Where tests find real data; they skip by themselves where there is none."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import registry
from bench.api import Backbone

for name in ("COLUMNS", "LINES"):  # set for parallel workers; a console keeps them
    os.environ.pop(name, None)
torch.set_num_threads(1)  # small tensors: more threads only wait for each other

CHECKOUT = Path(__file__).parent.parent
sys.path.append(str(CHECKOUT / "tests"))  # for what test files share, such as `hub_server`


def _beside_the_checkout(name: str) -> Path | None:
    folder = CHECKOUT.parent / "shared" / name
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real labelled sets: BENCH_DATA, or shared/data beside the checkout."""
    named = os.environ.get("BENCH_DATA")
    folder = Path(named) if named else _beside_the_checkout("data")
    if folder is None or not folder.is_dir():
        pytest.skip("no real data: set BENCH_DATA")
    return folder


@pytest.fixture(scope="session")
def specs_dir() -> Path:
    """The folder of published numbers of foundation models, beside the checkout."""
    folder = _beside_the_checkout("specs")
    if folder is None:
        pytest.skip("no published numbers beside the checkout")
    return folder


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of real ViT weights, beside the real data."""
    folder = _beside_the_checkout("weights")
    if folder is None:
        pytest.skip("no real weights beside the checkout")
    return folder


MINIATURES = {  # by the first word of timm's name: the same network, small
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "samvit": {"embed_dim": 48, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,)},
    "swin": {"embed_dim": 16, "depths": (1, 2, 1, 2), "num_heads": (1, 2, 2, 2)},
    "vit": {"embed_dim": 48, "depth": 2, "num_heads": 2},
}


@pytest.fixture(scope="session")
def miniature() -> Callable[[str], Backbone]:
    """Give the record of a named timm backbone with a network of a few thousand weights."""

    def smaller(name: str) -> Backbone:
        record: Any = registry.get("backbones", name)
        network: Any = record.build.__self__
        family = network.architecture.split("_")[0].replace("v2", "").replace("beit3", "vit")
        small = replace(network, options={**network.options, **MINIATURES[family]})
        return replace(record, build=small.build, convert=small.convert)

    return smaller


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Give a function that calls the command as a shell does: exit code, both outputs."""

    def call(*words: str) -> tuple[int, str, str]:
        from bench.cli import main

        monkeypatch.setattr(sys, "argv", ["bench", *words])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), out.getvalue(), err.getvalue()

    return call
