"""Fixtures: real data (tests skip without it), miniature backbones, and the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import registry
from bench.api import Backbone
from bench.api.record import Record

for name in ("COLUMNS", "LINES"):  # set for parallel workers; a console keeps them
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs so
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors: more threads only wait for each other

CHECKOUT = Path(__file__).parent.parent
sys.path.append(str(CHECKOUT / "tests"))  # for the modules that tests share, such as `tiny`


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


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A small run with seven scored patients."""
    from tiny import tiny_run

    return tiny_run(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A few-shot run (two shots, two draws) on the data set of `full`."""
    from tiny import FEWSHOT, tiny_run

    return tiny_run(tmp_path_factory.mktemp("few"), **FEWSHOT)


MINIATURES = {  # by the first word of timm's name: the same network, small
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "samvit": {"embed_dim": 48, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,)},
    "swin": {"embed_dim": 16, "depths": (1, 2, 1, 2), "num_heads": (1, 2, 2, 2)},
    "vit": {"embed_dim": 48, "depth": 2, "num_heads": 2},
}


@pytest.fixture(scope="session")
def miniature() -> Callable[[str], Backbone]:
    """Return a function: name of a timm backbone -> its record with a tiny network."""

    def smaller(name: str) -> Backbone:
        record: Any = registry.get("backbones", name)
        network: Any = record.build.__self__
        family = network.architecture.split("_")[0].replace("v2", "").replace("beit3", "vit")
        small = replace(network, options={**network.options, **MINIATURES[family]})
        return replace(record, build=small.build, convert=small.convert)

    return smaller


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that docs/make_reliability.py uses."""
    parser.addoption(
        "--fault-table", metavar="FILE", help="write the outcomes of tests marked `fault`"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add to the report of a test the rows of docs/reliability.md that it guards."""
    for item in items:
        rows = [row for mark in item.iter_markers("fault") for row in mark.args]
        item.user_properties += [("fault", row) for row in dict.fromkeys(rows)]


fault_reports: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a marked test, or of its setup if that failed."""
    rows = [value for name, value in report.user_properties if name == "fault"]
    if rows and (report.when == "call" or report.outcome != "passed"):
        figures = [value for name, value in report.user_properties if name == "figure"]
        fault_reports.append(
            {
                "test": report.nodeid,
                "rows": rows,
                "outcome": report.outcome,
                "seconds": round(report.duration, 2),
                "figures": figures,
                "unmet": any(name == "unmet" for name, _ in report.user_properties),
            }
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, in the main process only; xdist sends it the reports of the workers."""
    file = session.config.getoption("--fault-table")
    if file and not hasattr(session.config, "workerinput"):
        Path(file).write_text(json.dumps(fault_reports, indent=1))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matplotlib figures that a test saves; no file is written."""
    figures: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure)
    )
    return figures


@pytest.fixture
def command() -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line: exit code, standard output and error."""
    from tiny import bench

    def call(*words: object) -> tuple[int, str, str]:
        result = bench(*words)
        return result.code, result.out, result.err

    return call
