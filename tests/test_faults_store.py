"""A results folder survives kills, a full disk, other processes and damaged files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from crashes import Changes, Full, Killed, watched
from tiny import request, squares

from bench.api.record import Record, canonical
from bench.errors import BenchError
from bench.runs.execute import Paths, execute
from bench.store.files import write_bytes
from bench.store.locks import OLD_S, TEMPORARY, locked
from bench.store.results import Store, read_trial
from bench.store.verify import check_results

Properties = Callable[[str, object], None]
Complete = tuple[dict[str, bytes], int]
TRIALS = "results/work/*/trial-*.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("data") / "squares", count=4)


def _silent(*_: object) -> None: ...


def _execute(folder: Path, home: Path) -> None:
    config = request(
        folder,
        protocol="fewshot",
        shots=1,
        draws=2,
        epochs=1,
        lr=0.1,
    )
    execute(config, Paths(home / "results", cache=home / "cache"), _silent, save_masks=True)


def _results(home: Path) -> dict[str, bytes]:
    """Return the bytes of all records and masks."""
    patterns = ("results/runs/*/*/record.json", "results/runs/*/*/masks/**/*.png")
    paths = [path for pattern in patterns for path in home.glob(pattern)]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def complete(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], int]:
    """The files of an uninterrupted run, and the number of its file operations."""
    home = tmp_path_factory.mktemp("complete")
    with watched(Changes(home)) as changes:
        _execute(folder, home)
    return _results(home), changes.count


def _interrupt(folder: Path, home: Path, changes: Changes) -> BaseException | None:
    """Execute a run that is stopped at a file operation; return the error."""
    with watched(changes):
        try:
            _execute(folder, home)
        except (Killed, BenchError) as error:
            return error
    return None


def _has_only_complete_records(home: Path) -> bool:
    return all(isinstance(record, Record) for record in Store(home / "results").records())


EVERY = pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(5, id="some")]
)


@EVERY
@pytest.mark.fault(1)
def test_a_run_killed_at_any_file_operation_resumes_to_the_same_bytes(
    every: int,
    folder: Path,
    complete: Complete,
    tmp_path: Path,
    record_property: Properties,
) -> None:
    expected, operations = complete
    points = range(1, operations + 1, every)
    for at in points:
        home = tmp_path / str(at)
        assert isinstance(_interrupt(folder, home, Changes(home, at)), Killed)
        assert _has_only_complete_records(home)
        _execute(folder, home)
        assert _results(home) == expected, at
    assert operations > 80
    record_property("figure", f"{len(points)} of {operations} crash points")


@pytest.mark.fault(1)
def test_a_run_killed_twice_resumes_to_the_same_bytes(
    folder: Path,
    complete: Complete,
    tmp_path: Path,
    record_property: Properties,
) -> None:
    expected, operations = complete
    draw = random.Random(0)
    for number in range(10):
        home = tmp_path / str(number)
        for _ in range(2):
            _interrupt(folder, home, Changes(home, draw.randint(1, operations)))
        _execute(folder, home)
        assert _results(home) == expected
    record_property("figure", "10 pairs of crash points")


@EVERY
@pytest.mark.fault(8)
def test_a_disk_that_is_full_from_any_operation_on_is_reported_and_the_run_resumes_later(
    every: int,
    folder: Path,
    complete: Complete,
    tmp_path: Path,
    record_property: Properties,
) -> None:
    expected, operations = complete
    reported = 0
    points = range(1, operations + 1, every)
    for at in points:
        home = tmp_path / str(at)
        error = _interrupt(folder, home, Full(home, at))
        if error is not None:
            assert "No space left" in str(error)
            assert "--results DIR" in str(error)
            reported += 1
        assert _has_only_complete_records(home)
        _execute(folder, home)
        assert _results(home) == expected, at
    assert reported > len(points) / 2
    record_property("figure", f"{len(points)} of {operations} operations, {reported} reported")


@pytest.mark.fault(8)
def test_a_full_disk_leaves_the_old_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    for at in range(1, 6):  # mkdir, open, write, fsync, replace
        with watched(Full(tmp_path, at)), pytest.raises(BenchError, match="No space left"):
            write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


# ---- the command in other processes ----------------------------------------------------------


def _command(folder: Path, home: Path, draws: int = 1, script: str = "") -> list[str]:
    words = ["run", "--backbone", "rgb", "--dataset", str(folder), "--protocol", "fewshot"]
    words += ["--head", "linear", "--shots", "1", "--draws", str(draws), "--epochs", "8"]
    words += ["--folds", "0", "--view", "whole", "--input-px", "32", "--json"]
    words += ["--results", str(home / "results")]
    start = f"{script}\nimport sys\nsys.argv = ['bench', *sys.argv[1:]]\n"
    return [sys.executable, "-c", f"{start}from bench.cli.main import main\nmain()", *words]


def _start(command: list[str], home: Path) -> subprocess.Popen[str]:
    variables = {"BENCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=os.environ | variables
    )


def _wait_for(pattern: str, home: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file exists, or the process has ended."""
    until = time.monotonic() + 60
    while not any(home.glob(pattern)) and process.poll() is None:
        assert time.monotonic() < until, "the command did not start"
        time.sleep(0.002)


@pytest.mark.fault(2)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_complete_files(
    folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    process = _start(_command(folder, tmp_path, draws=400), tmp_path)
    _wait_for("results/work/*/trial-0003.json", tmp_path, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "the same command" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob(f"results/**/{TEMPORARY}*"))
    trials = list(tmp_path.glob(TRIALS))
    assert 4 <= len(trials) < 400
    assert all(read_trial(path) is not None for path in trials)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_the_real_command_killed_ten_times_resumes_to_the_same_bytes(
    folder: Path, tmp_path: Path, record_property: Properties
) -> None:
    complete, home = tmp_path / "complete", tmp_path / "killed"
    began = time.monotonic()
    process = _start(_command(folder, complete, draws=150), complete)
    _wait_for("results/work/*.lock", complete, process)
    seconds = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    seconds = time.monotonic() - seconds
    draw, kills = random.Random(1), 0
    for _ in range(10):
        process = _start(_command(folder, home, draws=150), home)
        _wait_for("results/work/*.lock", home, process)
        time.sleep(draw.uniform(0, seconds / 8))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kills += process.returncode == -signal.SIGKILL
    last = _start(_command(folder, home, draws=150), home)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert kills == 10
    assert _results(home) == _results(complete)
    record_property("figure", f"{kills} SIGKILLs in {time.monotonic() - began:.0f} s")


@pytest.mark.fault(8)
def test_a_limit_of_the_file_size_is_reported_and_leaves_no_temporary_file(
    folder: Path, tmp_path: Path
) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    limited = _start(_command(folder, tmp_path, script=limit), tmp_path)
    _, err = limited.communicate(timeout=60)
    assert limited.returncode == 2, err
    assert "cannot write" in err
    assert "File too large" in err
    assert not list(tmp_path.glob(f"**/{TEMPORARY}*"))


RUNS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tiny import request
from bench.api import PlanOptions
from bench.runs.execute import Paths, execute
folder, home = Path(sys.argv[2]), Path(sys.argv[3])
computed = []
for seed in range(10):
    config = request(folder, seed=seed)
    outcome = execute(config, Paths(home / "results"), lambda *_: None)
    computed += [] if outcome.cached else [outcome.record.run_id]
print(json.dumps(computed))
"""


@pytest.mark.slow
@pytest.mark.fault(4)
def test_four_processes_with_the_same_ten_runs_compute_each_run_once(
    folder: Path, tmp_path: Path, record_property: Properties
) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", RUNS, here, str(folder), str(tmp_path)]
    processes = [_start(command, tmp_path) for _ in range(4)]
    computed: list[str] = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        computed += json.loads(out)
    assert len(computed) == len(set(computed)) == 10
    records = list(Store(tmp_path / "results").records())
    assert sorted(computed) == sorted(each.run_id for each in records if isinstance(each, Record))
    assert list((tmp_path / "results" / "work").iterdir()) == []
    record_property("figure", "4 processes, 10 runs, 10 records")


@pytest.mark.fault(3, 4)
def test_a_lock_waits_for_the_process_that_holds_it_and_ends_with_it(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from bench.store.locks import locked
        with locked(Path(sys.argv[1]), lambda: None):
            print("locked", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "work" / "run.lock"
    process = _start([sys.executable, "-c", dedent(script), str(path)], tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    waits: list[None] = []

    def kill() -> None:
        waits.append(None)
        process.kill()

    with locked(path, kill):
        assert len(waits) == 1
    process.communicate()
    with locked(path, kill):  # the file remains, without a lock
        assert len(waits) == 1


@pytest.mark.fault(3)
def test_temporary_files_older_than_a_day_are_removed(folder: Path, tmp_path: Path) -> None:
    _execute(folder, tmp_path)
    (features,) = (tmp_path / "cache" / "features").iterdir()
    folders = [tmp_path / "results" / "work", tmp_path / "cache" / "heads", features]
    for path in folders:
        for name, age_s in (("old", OLD_S + 60), ("new", OLD_S - 60)):
            (path / f"{TEMPORARY}{name}").touch()
            modified = time.time() - age_s
            os.utime(path / f"{TEMPORARY}{name}", (modified, modified))
    config = request(folder, seed=7)
    execute(config, Paths(tmp_path / "results", cache=tmp_path / "cache"), _silent)
    assert sorted(tmp_path.glob(f"**/{TEMPORARY}*")) == sorted(
        path / f"{TEMPORARY}new" for path in folders
    )


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_record_and_store import _record
from bench.store.results import Store
for repeat in range(60):
    record = _record(draws=20, repeat=60 * int(sys.argv[3]) + repeat)
    for number, trial in enumerate(record.trials[:2]):
        Store(Path(sys.argv[2])).save_trial(record.run_id, number, trial)
    Store(Path(sys.argv[2])).commit(record, {"finished": f"2026-01-01T{repeat:02}"})
"""


@pytest.mark.fault(5)
def test_a_reader_beside_three_writers_sees_only_complete_records(
    tmp_path: Path, record_property: Properties
) -> None:
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", WRITER, here, str(tmp_path), str(n)] for n in range(3)]
    writers = [_start(command, tmp_path) for command in commands]
    counts = [0]
    while any(writer.poll() is None for writer in writers):
        records = list(Store(tmp_path).records())
        assert all(isinstance(record, Record) for record in records)
        assert len(records) >= counts[-1]
        counts.append(len(records))
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
    assert len(list(Store(tmp_path).records())) == 180
    assert len(set(counts)) > 2
    partial = sum(0 < count < 180 for count in counts)
    record_property("figure", f"3 writers, 180 records, {partial} readings between")


# ---- damage ----------------------------------------------------------------------------------


@pytest.mark.fault(6)
def test_a_damaged_record_is_reported_quarantined_and_recomputed(
    folder: Path, tmp_path: Path, record_property: Properties
) -> None:
    _execute(folder, tmp_path)
    store = Store(tmp_path / "results")
    (path,) = store.root.glob("runs/*/*/record.json")
    content, run_id = path.read_bytes(), path.parent.name
    for number, position in enumerate(np.linspace(0, len(content) - 2, 50).astype(int)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (number % 7)
        path.write_bytes(bytes(damaged) if number % 2 else content[:position])
        assert len(list(check_results(store.root, _silent))) == 1
        assert store.find(run_id) is None
        assert len(list((store.root / "quarantine").iterdir())) == number + 1
        path.parent.mkdir(parents=True)
    _execute(folder, tmp_path)
    assert path.read_bytes() == content
    assert list(check_results(store.root, _silent)) == []
    record_property("figure", "50 positions, half cut, half flipped")


@pytest.mark.fault(6)
def test_two_swapped_run_folders_are_quarantined_and_recomputed(
    folder: Path, tmp_path: Path
) -> None:
    paths = Paths(tmp_path / "results")
    configs = [request(folder, seed=seed) for seed in (0, 1)]
    expected = [execute(config, paths, _silent).record for config in configs]
    store = Store(paths.results)
    one, other = (store.folder(record.run_id) for record in expected)
    one.rename(tmp_path / "third")
    other.rename(one)
    (tmp_path / "third").rename(other)
    assert all(isinstance(record, BenchError) for record in store.records())
    assert [execute(config, paths, _silent).record for config in configs] == expected
    assert len(list((store.root / "quarantine").iterdir())) == 2


@pytest.mark.fault(6, 29)
@pytest.mark.parametrize("kind", ["permission", "schema"])
def test_an_unreadable_record_and_one_of_a_newer_schema_are_left_unchanged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    paths, config = Paths(tmp_path / "results"), request(folder)
    record = execute(config, paths, _silent).record
    path = Store(paths.results).folder(record.run_id) / "record.json"
    read, message = Path.read_bytes, "has schema 3"
    if kind == "schema":
        body = json.loads(path.read_bytes()) | {"schema": 3}
        del body["sha256"]
        body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
        path.write_bytes(canonical(body) + b"\n")
    else:
        message = re.escape(os.strerror(errno.EACCES))

        def fail(target: Path) -> bytes:
            if target == path:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            return read(target)

        monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(BenchError, match=message) as error:
        execute(config, paths, _silent)
    assert str(path) in str(error.value)
    assert path.is_file()
    assert not (paths.results / "quarantine").exists()


@pytest.mark.fault(6)
def test_damaged_json_next_to_a_run_stops_no_reader(folder: Path, tmp_path: Path) -> None:
    paths, deep = Paths(tmp_path / "results"), b"[" * 100_000
    record = execute(request(folder), paths, _silent).record
    store = Store(paths.results)
    (store.folder(record.run_id) / "context.json").write_bytes(deep)
    store.work("0" * 16).mkdir(parents=True)
    (store.work("0" * 16) / "failed.json").write_bytes(deep)
    assert list(store.records()) == [record]
    assert store.failures() == ["0000000000000000: the reason of its failure is unreadable"]
    assert len(list(check_results(store.root, _silent))) == 1


@pytest.mark.fault(6)
def test_a_truncated_trial_and_a_copy_of_one_are_ignored(
    folder: Path, complete: Complete, tmp_path: Path
) -> None:
    expected, operations = complete
    for at in range(operations - 40, operations, 8):
        home = tmp_path / str(at)
        _interrupt(folder, home, Changes(home, at))
        for path in home.glob(TRIALS):
            path.with_name("trial-0000 (copy).json").write_bytes(path.read_bytes())
            path.write_bytes(path.read_bytes()[:-20])
            assert read_trial(path) is None
        _execute(folder, home)
        assert _results(home) == expected


@pytest.mark.fault(9)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_results_that_cannot_be_written_are_refused_before_any_computation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Closed(Full):
        def stop(self, name: str) -> None:
            raise OSError(number, os.strerror(number))

    def resolve(*_: Any) -> None:
        raise AssertionError("the run was started")

    monkeypatch.setattr("bench.runs.execute.resolve", resolve)
    with (
        watched(Closed(tmp_path, 1)),
        pytest.raises(BenchError, match=os.strerror(number)),
    ):
        _execute(folder, tmp_path)


@pytest.mark.fault(9)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o555)
    with pytest.raises(BenchError, match="Permission denied"):
        _execute(folder, tmp_path)
