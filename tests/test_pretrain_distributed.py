"""Two processes, replicated or sharded, learn what one process learns, and resume exactly.

`torchrun` starts this file with the arguments IMAGES OUT STEPS [shard] [recompute] [parts].
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_pretraining import job_of, quiet, write_tiles

from bench.backbones.cmd.network import CMD
from bench.errors import BenchError
from bench.models import checkpoints
from bench.models.checkpoints import read_weights
from bench.pretrain.distributed import (
    ProcessGroup,
    exit_now,
    init_processes,
    main_process_first,
    repeated_blocks,
)
from bench.pretrain.export import export
from bench.pretrain.job import CHECKPOINTS
from bench.pretrain.trainer import train

TOLERANCE = 2e-5  # sums of gradients in another order, after four steps of AdamW at 1e-3


def work(images: Path, out: Path, steps: int, words: list[str]) -> None:
    """Train and export; "shard", "recompute" and "parts" change how."""
    torch.set_num_threads(1)
    with init_processes(torch.device("cpu")) as processes:
        with main_process_first(processes):
            job = job_of(
                images,
                out,
                steps=steps,
                accumulate=2 if "parts" in words else 1,
                clip=0.5,
                picture_every=4,
                validate_every=2,
                keep=1,
                device="cpu",
                recompute="recompute" in words,
                shard="shard" in words,
            )
        outcome = train(job, quiet)
        if processes.is_main:
            export(job, outcome)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of four steps in one process."""
    out = tmp_path_factory.mktemp("alone")
    work(images, out, 4, [])
    return out


def _two(images: Path, out: Path, steps: int, *words: str) -> None:
    """Train in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone", __file__]
    command += [str(images), str(out), str(steps), *words]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def _difference(one: Path, other: Path) -> float:
    a, b = (read_weights(folder / "model.safetensors").tensors for folder in (one, other))
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def _column(out: Path, name: str) -> list[float]:
    with (out / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("parts",), ("shard", "parts", "recompute")])
def test_two_processes_learn_what_one_learns_from_the_same_batch(
    images: Path, alone: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    _two(images, tmp_path, 4, *words)
    assert _difference(alone, tmp_path) < TOLERANCE
    for name in ("loss", "gradient_norm", "val_l1"):
        assert _column(tmp_path, name) == pytest.approx(_column(alone, name), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("shard",)])
def test_two_processes_resume_to_the_same_weights(
    images: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    _two(images, tmp_path / "whole", 4, *words)
    _two(images, tmp_path / "parts", 2, *words)
    half = checkpoints.all_of(tmp_path / "parts" / CHECKPOINTS)
    assert [path.stem for path in half] == ["step-00000002"]
    (tmp_path / "parts" / CHECKPOINTS / ".step-00000003").mkdir()  # left by a killed process
    _two(images, tmp_path / "parts", 4, *words)
    assert _difference(tmp_path / "whole", tmp_path / "parts") == 0
    assert len(_column(tmp_path / "parts", "loss")) == 4
    remaining = {path.name for path in (tmp_path / "parts" / CHECKPOINTS).iterdir()}
    if words:
        assert remaining == {"step-00000004"}
        assert (
            _difference(tmp_path / "parts", tmp_path / "parts" / CHECKPOINTS / "step-00000004") == 0
        )
        with pytest.raises(BenchError, match="add --shard, or use another --out"):
            work(images, tmp_path / "parts", 6, [])


def test_recomputed_activations_change_no_weight(images: Path, alone: Path, tmp_path: Path) -> None:
    work(images, tmp_path, 4, ["recompute"])
    assert _difference(alone, tmp_path) == 0


def test_each_block_of_a_network_is_listed_once() -> None:
    network = CMD(8)
    blocks = list(repeated_blocks(network))
    assert len(blocks) == len(set(map(id, blocks))) == 26 + 5 + 5  # blocks, downs, ups


def test_the_parts_of_a_batch_cover_it_in_order() -> None:
    images = list(range(12))
    assert [i for rank in range(3) for i in images[ProcessGroup(rank, 3).part(12)]] == images


def test_a_batch_that_processes_cannot_share_equally_raises(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.pretrain.job.current_processes", lambda: ProcessGroup(0, 3))
    with pytest.raises(BenchError, match=r"--batch-size 4 .* 3 processes .* a multiple of 3"):
        job_of(images, tmp_path)
    monkeypatch.undo()
    with pytest.raises(BenchError, match="start them with torchrun"):
        job_of(images, tmp_path, shard=True)


def test_an_incomplete_sharded_checkpoint_raises(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CHECKPOINTS / "step-00000002").mkdir(parents=True)
    monkeypatch.setattr("bench.pretrain.job.current_processes", lambda: ProcessGroup(0, 2))
    monkeypatch.setattr("bench.pretrain.step.distributed.shard", lambda network: None)
    job = job_of(images, tmp_path, shard=True)
    with pytest.raises(BenchError, match=r"step-00000002 is damaged .* Or delete it"):
        train(job, quiet)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    exit_now()
