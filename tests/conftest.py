"""Where tests find real data; they skip by themselves where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

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
def weights_dir() -> Path:
    """The folder of real ViT weights, beside the real data."""
    folder = _beside_the_checkout("weights")
    if folder is None:
        pytest.skip("no real weights beside the checkout")
    return folder
