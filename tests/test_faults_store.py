"""What a store survives: kills and a full disk at every change of a file, and other processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
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
from small_runs import request, squares

from bench.api.record import Record, canonical
from bench.errors import BenchError
from bench.runs.execute import Paths, execute
from bench.store import results as stores
from bench.store.files import write_bytes
from bench.store.locks import OLD_S, WRITING, claimed, sweep
from bench.store.results import Store
from bench.store.verify import of_results

Properties = Callable[[str, object], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("data") / "squares", count=4)


def _make(folder: Path, home: Path) -> None:
    asked = request(
        folder,
        protocol="fewshot",
        shots=1,
        draws=2,
        epochs=1,
        lr=0.1,
    )
    places = Paths(home / "results", cache=home / "cache")
    execute(asked, places, lambda *_: None, save_masks=True)


def _kept(home: Path) -> dict[str, bytes]:
    """Give the bytes of all records and masks."""
    paths = [
        *home.glob("results/runs/*/*/record.json"),
        *home.glob("results/runs/*/*/masks/**/*.png"),
    ]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a run that nothing stopped, and the number of changes that it made."""
    home = tmp_path_factory.mktemp("whole")
    with watched(Changes(home)) as changes:
        _make(folder, home)
    return _kept(home), changes.made


def _stopped(folder: Path, home: Path, changes: Changes) -> BaseException | None:
    with watched(changes):
        try:
            _make(folder, home)
        except (Killed, BenchError) as error:
            return error
    return None


def _only_whole_records(home: Path) -> bool:
    return all(isinstance(each, Record) for each in Store(home / "results").records())


EVERY = pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(5, id="some")]
)


@EVERY
@pytest.mark.fault(1)
def test_a_run_killed_at_any_change_of_a_file_ends_in_the_same_bytes(
    every: int,
    folder: Path,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
    record_property: Properties,
) -> None:
    wanted, changes = whole
    points = range(1, changes + 1, every)
    for at in points:
        home = tmp_path / str(at)
        assert isinstance(_stopped(folder, home, Changes(home, at)), Killed)
        assert _only_whole_records(home)
        _make(folder, home)
        assert _kept(home) == wanted, at
    assert changes > 100
    record_property("figure", f"{len(points)} of {changes} crash points")


@pytest.mark.fault(1)
def test_a_run_killed_twice_ends_in_the_same_bytes(
    folder: Path,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
    record_property: Properties,
) -> None:
    wanted, changes = whole
    draw = random.Random(0)
    for number in range(10):
        home = tmp_path / str(number)
        for _ in range(2):
            _stopped(folder, home, Changes(home, draw.randint(1, changes)))
        _make(folder, home)
        assert _kept(home) == wanted
    record_property("figure", "10 pairs of crash points")


@EVERY
@pytest.mark.fault(8)
def test_a_disk_that_is_full_from_any_change_on_is_told_and_the_run_goes_on_later(
    every: int,
    folder: Path,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
    record_property: Properties,
) -> None:
    wanted, changes = whole
    told = 0
    points = range(1, changes + 1, every)
    for at in points:
        home = tmp_path / str(at)
        error = _stopped(folder, home, Full(home, at))
        if error is not None:
            assert "No space left" in str(error)
            assert "--results DIR" in str(error)
            told += 1
        assert _only_whole_records(home)
        _make(folder, home)
        assert _kept(home) == wanted, at
    assert told > len(points) / 2
    record_property("figure", f"{len(points)} of {changes} changes, {told} of them told")


@pytest.mark.fault(8)
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    for at in range(1, 7):  # mkdir, open, write, fsync, chmod, replace
        with watched(Full(tmp_path, at)), pytest.raises(BenchError, match="No space left"):
            write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


# ---- the command, in processes of its own ----------------------------------------------------


def _command(folder: Path, home: Path, draws: int = 1, script: str = "") -> list[str]:
    words = ["run", "--backbone", "rgb", "--dataset", str(folder), "--protocol", "fewshot"]
    words += ["--head", "linear", "--shots", "1", "--draws", str(draws), "--epochs", "8"]
    words += ["--input-px", "32", "--results", str(home / "results"), "--json"]
    start = f"{script}\nimport sys\nsys.argv = ['bench', *sys.argv[1:]]\n"
    return [sys.executable, "-c", f"{start}from bench.cli.main import main\nmain()", *words]


def _started(command: list[str], home: Path) -> subprocess.Popen[str]:
    own = {"BENCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | own)


def _wait_for(pattern: str, home: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, or the process has ended."""
    until = time.monotonic() + 60
    while not any(home.glob(pattern)) and process.poll() is None:
        assert time.monotonic() < until, "nothing began"
        time.sleep(0.002)


@pytest.mark.fault(2)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_its_code_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    command = _command(folder, tmp_path, draws=400)
    process = _started(command, tmp_path)
    _wait_for("results/work/*/trial-0003.json", tmp_path, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob(f"results/**/{WRITING}*"))
    kept = len(list(tmp_path.glob("results/work/*/trial-*.json")))
    assert 4 <= kept < 400
    assert all(
        stores.read_trial(path) is not None for path in tmp_path.glob("results/work/*/trial-*.json")
    )


@pytest.mark.slow
@pytest.mark.fault(1)
def test_the_real_command_killed_ten_times_ends_in_the_same_bytes(
    folder: Path, tmp_path: Path, record_property: Properties
) -> None:
    whole, home = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    done = _started(_command(folder, whole, draws=150), whole)
    _wait_for("results/work/*/claim", whole, done)
    seconds = time.monotonic()
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    seconds = time.monotonic() - seconds
    draw, kills = random.Random(1), 0
    for _ in range(10):
        process = _started(_command(folder, home, draws=150), home)
        _wait_for("results/work/*/claim", home, process)
        time.sleep(draw.uniform(0, seconds / 8))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kills += process.returncode == -signal.SIGKILL
    last = _started(_command(folder, home, draws=150), home)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert kills == 10
    assert _kept(home) == _kept(whole)
    record_property("figure", f"{kills} SIGKILLs in {time.monotonic() - began:.0f} s")


@pytest.mark.fault(8)
def test_a_limit_on_the_size_of_files_is_told_and_the_run_goes_on_without_it(
    folder: Path, tmp_path: Path
) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    limited = _started(_command(folder, tmp_path, script=limit), tmp_path)
    _, err = limited.communicate(timeout=60)
    assert limited.returncode == 2, err
    assert "cannot write" in err
    assert "File too large" in err
    assert not list(tmp_path.glob(f"**/{WRITING}*"))
    free = _started(_command(folder, tmp_path), tmp_path)
    out, err = free.communicate(timeout=60)
    assert free.returncode == 0, err
    assert json.loads(out)["scores"]


# ---- several processes -----------------------------------------------------------------------

RUNS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from small_runs import request
from bench.api import PlanOptions
from bench.running import Paths, execute
folder, home = Path(sys.argv[2]), Path(sys.argv[3])
made = []
for seed in range(10):
    asked = request(folder, seed=seed)
    outcome = execute(asked, Paths(home / "results"), lambda *_: None)
    made += [] if outcome.found else [outcome.record.run_id]
print(json.dumps(made))
"""


@pytest.mark.slow
@pytest.mark.fault(4)
def test_four_processes_with_the_same_ten_runs_make_each_once(
    folder: Path, tmp_path: Path, record_property: Properties
) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", RUNS, here, str(folder), str(tmp_path)]
    running = [_started(command, tmp_path) for _ in range(4)]
    made: list[str] = []
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        made += json.loads(out)
    assert len(made) == len(set(made)) == 10
    records = list(Store(tmp_path / "results").records())
    assert sorted(made) == sorted(each.run_id for each in records if isinstance(each, Record))
    assert list((tmp_path / "results" / "work").iterdir()) == []
    record_property("figure", "4 processes, 10 runs, 10 records")


def test_a_claim_waits_for_the_process_that_holds_it_and_ends_with_it(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from bench.claim import claimed
        with claimed(Path(sys.argv[1]), lambda: None):
            print("held", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "work" / "claim"
    process = _started([sys.executable, "-c", dedent(script), str(path)], tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    waits: list[float] = []

    def kill() -> None:
        waits.append(time.monotonic())
        process.kill()  # no chance to tidy up

    with claimed(path, kill):
        assert len(waits) == 1
    process.communicate()
    with claimed(path, kill):
        assert len(waits) == 1  # nobody held it


@pytest.mark.fault(3)
def test_a_claim_that_a_dead_process_left_is_taken_whoever_has_its_number(tmp_path: Path) -> None:
    path = tmp_path / "work" / "claim"
    path.parent.mkdir()
    path.write_text(f"{os.getpid()}\n")  # a living process has the number now
    waits: list[None] = []
    with claimed(path, lambda: waits.append(None)):
        pass
    assert not waits


@pytest.mark.fault(3)
def test_old_files_of_dead_writers_are_swept_and_a_living_ones_never(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from bench import store
        def write(file):
            file.write(b"a part")
            file.flush()
            print("writing", flush=True)
            sys.stdin.readline()
        store.write_stream(Path(sys.argv[1]), write)
    """
    command = [sys.executable, "-c", dedent(script), str(tmp_path / "file")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        (living,) = tmp_path.glob(f"{WRITING}*")
        dead, young = tmp_path / f"{WRITING}dead", tmp_path / f"{WRITING}young"
        dead.touch()
        young.touch()
        old = time.time() - OLD_S - 60
        for path in (living, dead):
            os.utime(path, (old, old))
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([living, young])
        process.communicate("\n", timeout=60)
    assert (tmp_path / "file").read_bytes() == b"a part"


@pytest.mark.fault(3)
def test_a_run_sweeps_where_it_writes(folder: Path, tmp_path: Path) -> None:
    _make(folder, tmp_path)
    (features,) = (tmp_path / "cache" / "features").iterdir()
    places = [tmp_path / "results" / "work", tmp_path / "cache" / "heads", features]
    for place in places:
        (place / f"{WRITING}dead").touch()
        os.utime(place / f"{WRITING}dead", (0, 0))
    asked = request(folder, seed=7)
    execute(asked, Paths(tmp_path / "results", cache=tmp_path / "cache"), lambda *_: None)
    assert not list(tmp_path.glob(f"**/{WRITING}*"))


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_record_and_store import _record
from bench.store import Store
for repeat in range(60):
    record = _record(draws=20, repeat=60 * int(sys.argv[3]) + repeat)
    for number, trial in enumerate(record.trials[:2]):
        Store(Path(sys.argv[2])).keep_trial(record.run_id, number, trial)
    Store(Path(sys.argv[2])).commit(record, {"finished": f"2026-01-01T{repeat:02}"})
"""


@pytest.mark.fault(5)
def test_a_reader_beside_three_writers_sees_whole_records_alone(
    tmp_path: Path, record_property: Properties
) -> None:
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", WRITER, here, str(tmp_path), str(n)] for n in range(3)]
    writers = [_started(command, tmp_path) for command in commands]
    counts = [0]
    while any(each.poll() is None for each in writers):
        found = list(Store(tmp_path).records())
        assert all(isinstance(each, Record) for each in found)
        assert len(found) >= counts[-1]
        counts.append(len(found))
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
    assert len(list(Store(tmp_path).records())) == 180
    assert len(set(counts)) > 2
    partial = sum(0 < each < 180 for each in counts)
    record_property("figure", f"3 writers, 180 records, {partial} readings between")


# ---- damage ----------------------------------------------------------------------------------


@pytest.mark.fault(6)
def test_a_damaged_record_is_doubted_put_aside_and_made_again(
    folder: Path, whole: tuple[dict[str, bytes], int], tmp_path: Path, record_property: Properties
) -> None:
    _make(folder, tmp_path)
    store = Store(tmp_path / "results")
    (path,) = store.root.glob("runs/*/*/record.json")
    content, run_id = path.read_bytes(), path.parent.name
    positions = np.linspace(0, len(content) - 2, 50).astype(int)
    for number, position in enumerate(positions):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (number % 7)
        path.write_bytes(bytes(damaged) if number % 2 else content[:position])
        assert len(list(of_results(store.root, lambda *_: None))) == 1
        assert store.find(run_id) is None
        assert len(list((store.root / "quarantine").iterdir())) == number + 1
        path.parent.mkdir(parents=True)
    _make(folder, tmp_path)
    assert path.read_bytes() == content
    assert list(of_results(store.root, lambda *_: None)) == []
    record_property("figure", "50 positions, half cut, half flipped")


@pytest.mark.fault(6)
def test_two_runs_whose_folders_changed_places_are_put_aside_and_made_again(
    folder: Path, tmp_path: Path
) -> None:
    places = Paths(tmp_path / "results")
    asked = [request(folder, seed=seed) for seed in (0, 1)]
    wanted = [execute(each, places, lambda *_: None).record for each in asked]
    store = Store(places.results)
    one, other = (store.folder(each.run_id) for each in wanted)
    one.rename(tmp_path / "third")
    other.rename(one)
    (tmp_path / "third").rename(other)
    assert all(isinstance(each, BenchError) for each in store.records())
    assert [execute(each, places, lambda *_: None).record for each in asked] == wanted
    assert len(list((store.root / "quarantine").iterdir())) == 2
    assert len([each for each in store.records() if isinstance(each, Record)]) == 2


@pytest.mark.fault(6)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_record_that_cannot_be_read_is_left_alone_and_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    places, asked = Paths(tmp_path / "results"), request(folder)
    made = execute(asked, places, lambda *_: None).record
    path = Store(places.results).folder(made.run_id) / "record.json"
    content, read = path.read_bytes(), Path.read_bytes

    def closed(own: Path) -> bytes:
        if own == path:
            raise OSError(number, os.strerror(number))
        return read(own)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", closed)
        with pytest.raises(BenchError, match=re.escape(os.strerror(number))) as told:
            execute(asked, places, lambda *_: None)
        assert str(path) in str(told.value)
        assert "repeat the command" in str(told.value)
    assert path.read_bytes() == content
    assert not (places.results / "quarantine").exists()
    assert execute(asked, places, lambda *_: None).found


@pytest.mark.fault(29)
def test_a_record_of_a_schema_to_come_is_left_alone_and_told(folder: Path, tmp_path: Path) -> None:
    places, asked = Paths(tmp_path / "results"), request(folder)
    made = execute(asked, places, lambda *_: None).record
    path = Store(places.results).folder(made.run_id) / "record.json"
    body = json.loads(path.read_bytes()) | {"schema": 3}
    del body["sha256"]
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    path.write_bytes(canonical(body) + b"\n")
    with pytest.raises(BenchError, match="has schema 3"):
        execute(asked, places, lambda *_: None)
    assert path.is_file()


def _trials_left(folder: Path, home: Path) -> list[Path]:
    """Stop a run at the change that names its folder; give the trials that it leaves."""
    _stopped(folder, home, Changes(home, int(home.name)))
    return sorted(home.glob("results/work/*/trial-*.json"))


@pytest.mark.fault(6)
def test_kept_trials_of_other_names_or_places_are_not_taken(
    folder: Path, whole: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    wanted, changes = whole
    homes = (tmp_path / str(at) for at in range(changes - 60, changes, 2))
    home, (one, other) = next(
        (home, trials) for home in homes if len(trials := _trials_left(folder, home)) == 2
    )
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    one.with_name("trial-0000 (copy).json").write_bytes(first)
    assert stores.read_trial(one) is stores.read_trial(other) is None
    shutil.rmtree(home / "results" / "runs", ignore_errors=True)
    _make(folder, home)
    assert {name: content for name, content in _kept(home).items() if "record" in name} == {
        name: content for name, content in wanted.items() if "record" in name
    }


@pytest.mark.fault(6)
def test_json_without_end_beside_a_run_stops_no_reader(folder: Path, tmp_path: Path) -> None:
    places, asked = Paths(tmp_path / "results"), request(folder)
    made = execute(asked, places, lambda *_: None).record
    store, deep = Store(places.results), b"[" * 100_000
    (store.folder(made.run_id) / "context.json").write_bytes(deep)
    store.work("0" * 16).mkdir(parents=True)
    (store.work("0" * 16) / "failed.json").write_bytes(deep)
    assert list(store.records()) == [made]
    assert store.failures() == ["0000000000000000: the reason of its failure is unreadable"]
    assert len(list(of_results(store.root, lambda *_: None))) == 1


@pytest.mark.fault(6)
def test_a_damaged_trial_of_a_run_under_way_is_made_again(
    folder: Path, whole: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    wanted, changes = whole
    for at in range(changes - 40, changes, 4):
        home = tmp_path / str(at)
        _stopped(folder, home, Changes(home, at))
        for path in home.glob("results/work/*/trial-*.json"):
            content = bytearray(path.read_bytes())
            content[len(content) // 3] ^= 1
            path.write_bytes(bytes(content))
            assert stores.read_trial(path) is None
        _make(folder, home)
        assert _kept(home) == wanted


@pytest.mark.fault(9)
@pytest.mark.parametrize("reason", ["Read-only file system", "Permission denied"])
def test_results_that_cannot_be_written_are_refused_before_anything_is_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    class Closed(Full):
        def stop(self, name: str) -> None:
            raise OSError({"R": 30, "P": 13}[reason[0]], reason)

    def opened(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("bench.runs.execute.resolve", opened)
    with watched(Closed(tmp_path, 1)), pytest.raises(BenchError, match=reason):
        _make(folder, tmp_path)


@pytest.mark.fault(9)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o555)
    with pytest.raises(BenchError, match="Permission denied"):
        _make(folder, tmp_path)
