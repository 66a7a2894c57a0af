"""Grids in TOML files: reading, planning, and running them here and on a cluster."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tiny import Place, place

from bench.api.run_config import Grid, Needs
from bench.errors import BenchError, RunFailed
from bench.runs.execute import Paths
from bench.runs.grid import expand
from bench.runs.ray_cluster import _committed, _task
from bench.runs.session import Session
from bench.runs.sweep import cells_of, read, summed
from bench.store.results import Store

GRID = """
backbone = ["rgb", "random-vit-s"]
protocol = ["linear-probe", "fewshot"]
shots = [1, 2]
draws = 2
head = "linear"
epochs = 1
input-px = 112
"""

ONE_CELL = 'backbone = "one-colour"\ndataset = "tnbc"\nepochs = 1\ninput-px = 24\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place(tmp_path, monkeypatch)


def _file(folder: Path, text: str = GRID) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def _grid(path: Path) -> Grid:
    return Grid.of(read(path))


# ---- reading ---------------------------------------------------------------------------------


def test_a_file_gives_the_grid_of_the_same_options(tmp_path: Path) -> None:
    cells = expand(_grid(_file(tmp_path))).cells
    assert len(cells) == 2 * (1 + 2)
    assert {cell.backbone for cell in cells} == {"rgb", "random-vit-s"}
    assert {cell.plan.draws for cell in cells} == {2}
    assert {(cell.input_px, cell.epochs) for cell in cells} == {(112, 1)}


def test_values_have_the_types_of_their_options(tmp_path: Path) -> None:
    text = 'fractions = [0.5, 1]\nlr = [1, 0.1]\ncheckpoint = "w.pt"\nttt = true\n'
    assert read(_file(tmp_path, text + "[option]\nlevels = 3\n")) == {
        "fraction": (0.5, 1.0),
        "lr": (1.0, 0.1),
        "checkpoint": Path("w.pt"),
        "ttt": True,
        "option": {"levels": "3"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no options"),
        ("backbone = [", "cannot be read as TOML"),
        ('backbones = ["rgb"]', "no option backbones. Options: backbone, dataset"),
        ('results = "elsewhere"', "no option results"),
        ('shots = ["one"]', "shots = 'one' is not an integer or a list of these"),
        ("shots = [true]", "shots = True is not an integer"),
        ("backbone = []", "backbone = [] is not text"),
        ('epochs = "many"', "epochs = 'many' is not an integer"),
        ("ttt = 1", "ttt = 1 is not true or false"),
        ("folds = [1, 2]", "folds = [1, 2] is not an integer."),
    ],
)
def test_invalid_files_raise(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchError, match=re.escape(message)):
        read(_file(tmp_path, text))
    with pytest.raises(BenchError, match="cannot be read"):
        read(tmp_path / "no.toml")


# ---- planning --------------------------------------------------------------------------------


def test_a_plan_counts_the_features_of_a_backbone_once_and_runs_nothing(here: Place) -> None:
    path = _file(here.home)
    result = here.bench("sweep", str(path), "--plan", "--json")
    assert result.code == 0, result.err
    plan = result.json
    images = len(Session(None).dataset("synthetic").samples)
    rgb, vit = 3 * 112**2, 384 * 7**2
    assert plan["feature_bytes"] == 2 * images * (rgb + vit)
    assert (plan["runs"], plan["runs_timed"], len(plan["cells"])) == (6, 0, 6)
    assert not list(here.home.rglob("record.json"))


def test_a_plan_takes_times_from_committed_runs(here: Place) -> None:
    words = ("--backbone", "one-colour", "--dataset", "tnbc", "--epochs", "1", "--input-px", "24")
    run = here.bench("run", *words, "--json").run
    path = _file(here.home, 'backbone = ["one-colour", "two-colours"]\ndataset = "tnbc"\n')
    plan = here.bench("sweep", str(path), "--plan", "--json").json
    assert (plan["runs"], plan["runs_timed"]) == (2, 1)
    seconds = Store(here.home / "results").context(run["run_id"])
    assert plan["seconds_of_timed"] == pytest.approx(sum(seconds["seconds"].values()))


def test_a_trained_backbone_caches_no_features(tmp_path: Path) -> None:
    path = _file(tmp_path, 'backbone = "transunet"\nprotocol = "full"\n')
    cells = cells_of(expand(_grid(path)).cells, Session(None), Store(tmp_path))
    assert summed(cells)["feature_bytes"] == 0


# ---- running ---------------------------------------------------------------------------------


def test_a_sweep_gives_the_records_of_the_command(here: Place) -> None:
    text = 'backbone = ["one-colour", "two-colours"]\ndataset = "tnbc"\nepochs = 1\ninput-px = 24\n'
    swept = here.bench("sweep", str(_file(here.home, text)), "--json")
    assert swept.code == 0, swept.err
    words = ("--backbone", "one-colour,two-colours", "--dataset", "tnbc")
    again = here.bench("run", *words, "--epochs", "1", "--input-px", "24", "--json")
    assert [run["cached"] for run in again.json["runs"]] == [True, True]


def test_the_error_without_ray_names_the_package(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = here.bench("sweep", str(_file(here.home, ONE_CELL)), "--ray", "local")
    assert result.code == 2
    assert "pip install 'cmd-bench[ray]'" in result.err


def test_a_failed_task_stores_its_reason_as_a_run_here_does(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = expand(_grid(_file(here.home, ONE_CELL.replace("tnbc", "nowhere")))).cells
    (sent,) = _task([cell], here.home / "data", False, frozenset())
    store = Store(here.home / "cluster")
    assert "nowhere" in _committed(cell, sent, store).reason
    assert store.failures() == []  # a run that cannot begin is no run

    def stops(*_: object) -> float:
        raise RunFailed("the loss became nan at step 3")

    monkeypatch.setattr("bench.runs.trials.fit", stops)
    (cell,) = expand(_grid(_file(here.home, ONE_CELL))).cells
    (sent,) = _task([cell], here.home / "data", False, frozenset())
    assert _committed(cell, sent, store).reason == "the loss became nan at step 3"
    here.bench("sweep", str(here.home / "grid.toml"))
    assert store.failures() == Store(here.home / "results").failures() != []


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_gives_the_bytes_of_the_plain_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from bench.runs import ray_cluster as runs_ray
    from bench.runs.grid import run as run_here

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray's tasks have it
    cells = expand(_grid(_file(tmp_path))).cells
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    lost: list[int] = []

    def progress(_: str, done: int, total: int) -> None:
        if done >= 1 and not lost:
            lost.append(total - done)
            cluster.remove_node(other, allow_graceful=False)

    try:
        places = Paths(tmp_path / "cluster", None, tmp_path / "cache")
        needs = Needs()
        results = list(
            runs_ray.run(cells, places, progress, address=str(cluster.address), needs=needs)
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    list(run_here(cells, Paths(tmp_path / "plain"), lambda *_: None))
    torch.set_num_threads(threads)
    assert lost
    assert lost[0] > 0
    assert not [result.reason for result in results if result.reason]
    assert [result.config for result in results] == list(cells)
    assert _bytes(tmp_path / "cluster") == _bytes(tmp_path / "plain")


def _bytes(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in root.rglob("record.json")}
